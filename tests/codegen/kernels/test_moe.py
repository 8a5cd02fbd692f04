"""The families of the experts' projections: facts, refusals, tiles, text."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from dsv4c.codegen.kernel import (
    ARCHS,
    KernelParams,
    NodeFacts,
    PackedOperand,
    Refusal,
    ValueFacts,
)
from dsv4c.codegen.kernels import _moe, moe_down, moe_gate_up
from dsv4c.codegen.packing import packing
from dsv4c.codegen.render import render
from dsv4c.codegen.tiles.moe import DOWN, GATE_UP, SMEM, UNIT_BYTES, Wish, fit

FORMS = [("nvfp4", "fp8_128"), ("mxfp4", "fp8_128"), ("fp8_128", "nvfp4"), ("bf16", "bf16")]
ORDER = ValueFacts("tensor", "i32", ("T", 6))
OFFSETS = ValueFacts("tensor", "i32", (257,))
X = ValueFacts("tensor", "bf16", ("T", 4096))
ACT = ValueFacts("tensor", "bf16", ("T", 6, 2048))
SHARED_ACT = ValueFacts("tensor", "bf16", ("T", 2048))
UP = ValueFacts("weight", "u8", (256, 2048, 4096), format="nvfp4")
SHARED_UP = ValueFacts("weight", "u8", (2048, 4096), format="fp8_128")
DOWN_W = ValueFacts("weight", "u8", (256, 4096, 2048), format="nvfp4")
SHARED_DOWN = ValueFacts("weight", "u8", (4096, 2048), format="fp8_128")
GATE_UP_IN = [X, replace(ORDER, dtype="f32"), ORDER, OFFSETS, UP, UP, SHARED_UP, SHARED_UP]
DOWN_IN = [ACT, ORDER, OFFSETS, SHARED_ACT, DOWN_W, SHARED_DOWN]


def select_up(inputs: Sequence[ValueFacts]) -> moe_gate_up.Params | Refusal:
    facts = NodeFacts("moe_gate_up", tuple(inputs), (ACT, SHARED_ACT), {"limit": 10.0})
    return moe_gate_up.select(facts, "sm_90a")


def select_down(inputs: Sequence[ValueFacts]) -> moe_down.Params | Refusal:
    facts = NodeFacts("moe_down", tuple(inputs), (X,), {})
    return moe_down.select(facts, "sm_90a")


def params(kind: str, forms: tuple[str, str], arch: str) -> KernelParams:
    if kind == "moe_gate_up":
        return moe_gate_up.choose(384, 6, 7168, 3072, *forms, 10.0, arch)
    return moe_down.choose(384, 6, 3072, 7168, *forms, arch)


@pytest.mark.parametrize("kind", ["moe_gate_up", "moe_down"])
def test_rendered_text(kind: str, golden: Callable[[str, str], None]) -> None:
    """For sm_100a: what streams weights, without the part for many tokens."""
    source = render(kind, params(kind, ("nvfp4", "fp8_128"), "sm_100a"), "sm_100a", ["L3"])
    golden(f"kernels/{source.name}.sm_100a.py", source.text)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("forms", FORMS, ids="_".join)
@pytest.mark.parametrize("kind", ["moe_gate_up", "moe_down"])
def test_rendered_text_has_no_lint(kind: str, forms: tuple[str, str], arch: str) -> None:
    text = render(kind, params(kind, forms, arch), arch).text
    assert max(len(line) for line in text.splitlines()) <= 110
    command = [sys.executable, "-m", "ruff", "check", "--select", "F,E7,W", "--isolated", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("arch", ARCHS)
def test_gate_up_waits_before_it_triggers(arch: str) -> None:
    """The down projections read `order` and `offsets` before their wait."""
    text = render("moe_gate_up", params("moe_gate_up", FORMS[0], arch), arch).text
    functions = {one.split("(")[0]: one for one in text.split("\ndef ")[1:]}
    triggers = {name: one for name, one in functions.items() if "launch_dependents()" in one}
    assert {*triggers} == {"stream_weights"} | ({"large_gather"} & {*functions})
    for name, one in triggers.items():
        trigger = "griddepcontrol_launch_dependents()"
        if name == "large_gather":
            one, trigger = functions["large_kernel"], "large_gather("
        assert one.index("griddepcontrol_wait()") < one.index(trigger)
    down = render("moe_down", params("moe_down", FORMS[0], arch), arch).text
    kernel = down.split("def kernel(")[1]
    assert kernel.index("offsets[e]") < kernel.index("griddepcontrol_wait()")


def test_params_from_facts() -> None:
    up, down = select_up(GATE_UP_IN), select_down(DOWN_IN)
    assert isinstance(up, moe_gate_up.Params)
    assert isinstance(down, moe_down.Params)
    name = "nvfp4_shared_fp8_128_e256_k6"
    assert moe_gate_up.kernel_name(up, "sm_90a") == f"moe_gate_up_{name}_4096x2048"
    assert moe_down.kernel_name(down, "sm_90a") == f"moe_down_{name}_2048x4096"
    other = replace(up, limit=7.5)
    assert moe_gate_up.kernel_name(other, "sm_90a") == f"moe_gate_up_{name}_4096x2048_l7p5"
    assert moe_gate_up.packed_operands(up) == (
        PackedOperand((4, 5), "gate_up_16+mma_fp4+mma_nvfp4_scales"),
        PackedOperand((6, 7), "gate_up_16+mma_fp8+mma_fp8_gate_up_scales"),
    )
    assert moe_down.packed_operands(down) == (
        PackedOperand((4,), "mma_fp4+mma_nvfp4_scales"),
        PackedOperand((5,), "mma_fp8+mma_fp8_scales"),
    )


@pytest.mark.parametrize("gate_up", [True, False])
@pytest.mark.parametrize("form", _moe.FORMATS)
def test_packings_exist(form: str, gate_up: bool) -> None:
    chosen = packing(_moe.packing(form, gate_up))
    assert (chosen.join is not None) == gate_up
    parts = [part for part in _moe.parts(form) if part != "scale_2"]
    assert [layout.part for layout in chosen.layouts] == parts


@pytest.mark.parametrize(
    ("at", "change", "reason"),
    [
        (0, replace(X, dtype="f32"), r"x is f32 \['T', 4096\]; takes bf16"),
        (1, ORDER, r"weights is i32 \['T', 6\]; takes f32"),
        (2, replace(ORDER, dims=("T", 8)), r"order is i32 \['T', 8\]; takes i32 \['T', 6\]"),
        (3, replace(OFFSETS, dims=(256,)), r"offsets is i32 \[256\]; takes i32 \[257\]"),
        (4, replace(UP, dims=(2048, 4096)), r"experts are \[2048, 4096\]"),
        (4, replace(UP, format="f32"), "w1 is f32; takes nvfp4, mxfp4, fp8_128, bf16"),
        (4, replace(UP, dims=(256, 2040, 4096)), "w1 is 2040 x 4096; takes multiples of 16 rows"),
        (5, replace(UP, format="mxfp4"), "gate and up are nvfp4 and mxfp4, fp8_128 and fp8_128"),
        (6, replace(SHARED_UP, dims=(1024, 4096)), r"shared w1 is \[1024, 4096\], not"),
    ],
)
def test_gate_up_refuses(at: int, change: ValueFacts, reason: str) -> None:
    inputs = [*GATE_UP_IN]
    inputs[at] = change
    refusal = select_up(inputs)
    assert isinstance(refusal, Refusal)
    assert re.search(reason, refusal.reason)


@pytest.mark.parametrize(
    ("at", "change", "reason"),
    [
        (0, replace(ACT, dims=("T", 6, 1024)), r"act is bf16 \['T', 6, 1024\]; takes bf16"),
        (2, replace(OFFSETS, dtype="i64"), r"offsets is i64 \[257\]"),
        (3, replace(SHARED_ACT, dims=("S", 2048)), r"shared act is bf16 \['S', 2048\]"),
        (4, replace(DOWN_W, dims=(2000, 4096, 2048)), "2000 experts, top 6; takes up to 1024"),
        (5, replace(SHARED_DOWN, format="fp8_128_f32"), "shared w2 is fp8_128_f32; takes"),
    ],
)
def test_down_refuses(at: int, change: ValueFacts, reason: str) -> None:
    inputs = [*DOWN_IN]
    inputs[at] = change
    refusal = select_down(inputs)
    assert isinstance(refusal, Refusal)
    assert re.search(reason, refusal.reason)


def test_refuses_another_number_of_inputs() -> None:
    assert select_up([X]) == Refusal("takes 8 inputs and 2 outputs, not 1 and 2")
    assert select_down([X]) == Refusal("takes 6 inputs and 1 output, not 1 and 1")


@pytest.mark.parametrize("table", [GATE_UP, DOWN], ids=["gate_up", "down"])
def test_tiles_cover_every_batch(table: dict[str, tuple[Wish, ...]]) -> None:
    for wishes in table.values():
        limits = [wish.most for wish in wishes]
        assert limits[-1] == 0
        assert limits[:-1] == sorted(set(limits[:-1]))


@pytest.mark.parametrize("forms", FORMS, ids="_".join)
@pytest.mark.parametrize(("units", "groups"), [(64, 128), (112, 192), (32, 128), (48, 224)])
def test_no_two_blocks_fit_one_multiprocessor(
    units: int, groups: int, forms: tuple[str, str]
) -> None:
    """Packed two by two, blocks leave multiprocessors idle: 54 instead of 44 us for one token."""
    for wish in (*GATE_UP["sm_90a"], *DOWN["sm_90a"]):
        tile = fit(wish, units, groups, forms, 8192)
        weights = max(
            n * UNIT_BYTES[f] for n, f in zip((tile.units, tile.shared_units), forms, strict=True)
        )
        rows = tile.held * (max(tile.units, tile.shared_units) * 128 + 16)
        sums = 4 * 8 * tile.tokens * (32 * tile.groups + 4)
        assert tile.stages * (tile.groups * weights + rows) + sums > 233472 // 2 - 1024


def test_few_tokens_hold_rows_for_as_many() -> None:
    assert fit(Wish(2, 8, 1, 9216, 10), 64, 128, FORMS[0], 5120).held == 2
    assert fit(Wish(0, 16, 1, 18432, 8), 64, 128, FORMS[0], 5120).held == 16
    # More than eight at a time are read as they are, whoever asked for them.
    assert fit(Wish(2, 32, 1, 18432, 12), 64, 128, FORMS[0], 5120).held == 32


def test_without_a_shared_expert() -> None:
    """Only its operands are missing; many tokens stream, too."""
    up = moe_gate_up.choose(256, 6, 4096, 2048, "nvfp4", "none", 10.0, "sm_90a")
    down = moe_down.choose(256, 6, 2048, 4096, "nvfp4", "none", "sm_90a")
    assert moe_gate_up.packed_operands(up)[0].inputs == (4, 5)
    assert len(moe_gate_up.packed_operands(up)) == len(moe_down.packed_operands(down)) == 1
    assert moe_down.workspaces(down) == ()
    for kind, one in (("moe_gate_up", up), ("moe_down", down)):
        body = render(kind, one, "sm_90a").body
        assert "shared_act" not in body.split("def entry(")[1]
        assert "run_large" not in body


@pytest.mark.parametrize("forms", FORMS, ids="_".join)
@pytest.mark.parametrize(("units", "groups"), [(64, 128), (112, 192), (48, 224), (4, 8), (2, 8)])
def test_tiles_fit_and_share_k_out_evenly(units: int, groups: int, forms: tuple[str, str]) -> None:
    """Unit u belongs to warp u % 8 in every tile: a token's bits do not depend on the tile."""
    for wish in (Wish(0, 8, 1, 18432, 8), Wish(0, 16, 1, 18432, 8), Wish(0, 16, 2, 9216, 8)):
        tile = fit(wish, units, groups, forms, 8192)
        for form, taken in zip(forms, (tile.units, tile.shared_units), strict=True):
            assert units % taken == 0
            assert taken % 8 == 0 or 8 % taken == 0
            assert taken == 1 or taken * UNIT_BYTES[form] <= wish.weights
        weights = max(
            n * UNIT_BYTES[f] for n, f in zip((tile.units, tile.shared_units), forms, strict=True)
        )
        stage = tile.groups * weights + tile.tokens * (
            max(tile.units, tile.shared_units) * 128 + 16
        )
        assert tile.stages >= 2
        assert tile.stages * stage + 4 * 8 * tile.tokens * (32 * tile.groups + 4) + 8192 <= SMEM
