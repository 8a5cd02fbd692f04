from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from dsv4c.codegen.kernel import ARCHS, NodeFacts, Refusal, ValueFacts
from dsv4c.codegen.kernels import inverse_rope_wo_a as family
from dsv4c.codegen.render import render
from dsv4c.codegen.tiles.cards import SMEM
from dsv4c.codegen.tiles.inverse_rope_wo_a import INVERSE_ROPE_WO_A

O = ValueFacts("tensor", "bf16", ("T", 64, 512))  # noqa: E741
ANGLES = ValueFacts("tensor", "f32", ("T", 64))
WEIGHT = ValueFacts("weight", "u8", (8192, 4096), format="fp8_128")
Z = ValueFacts("tensor", "bf16", ("T", 8192))


def select(*inputs: ValueFacts, z: ValueFacts = Z, arch: str = "sm_90a") -> family.Params | Refusal:
    return family.select(NodeFacts(family.KIND, inputs, (z,), {}), arch)


@pytest.mark.parametrize("form", family.FORMATS)
def test_rendered_text(form: str, golden: Callable[[str, str], None]) -> None:
    source = render(family.KIND, family.choose(64, 8, 1024, form, "sm_90a"), "sm_90a", ["layers.0"])
    golden(f"kernels/{source.name}.sm_90a.py", source.text)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("form", family.FORMATS)
def test_rendered_text_has_no_lint(form: str, arch: str) -> None:
    text = render(family.KIND, family.choose(128, 16, 1024, form, arch), arch).text
    assert max(len(line) for line in text.splitlines()) <= 110
    command = [sys.executable, "-m", "ruff", "check", "--select", "F,E7,W", "--isolated", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert ("warpgroup.fence" in text) == (arch == "sm_90a")


@pytest.mark.parametrize(
    ("heads", "weight", "name"),
    [
        (64, WEIGHT, "inverse_rope_wo_a_fp8_128_g8_4096x1024"),
        (128, replace(WEIGHT, dims=(16384, 4096)), "inverse_rope_wo_a_fp8_128_g16_4096x1024"),
        (
            8,
            ValueFacts("weight", "bf16", (256, 2048), format="bf16"),
            "inverse_rope_wo_a_bf16_g2_2048x128",
        ),
    ],
)
def test_params_from_facts(heads: int, weight: ValueFacts, name: str) -> None:
    o = replace(O, dims=("T", heads, 512))
    params = select(o, ANGLES, weight, z=replace(Z, dims=("T", weight.dims[0])))
    assert isinstance(params, family.Params)
    assert family.kernel_name(params, "sm_90a") == name
    context = family.context(params)
    assert context["depth"] == weight.dims[1]
    assert context["fp8"] == (weight.format == "fp8_128")
    assert context["wgmma"]


def test_the_other_target_has_no_wgmma() -> None:
    params = select(O, ANGLES, WEIGHT, arch="sm_100a")
    assert isinstance(params, family.Params)
    assert not family.context(params)["wgmma"]


@pytest.mark.parametrize(
    ("at", "change", "reason"),
    [
        (0, replace(O, dims=("T", 64, 256)), r"o is bf16 \['T', 64, 256\]; takes bf16"),
        (0, replace(O, dims=("T", "H", 512)), "heads and weight dims must be known, not H"),
        (0, replace(O, dtype="f32"), "o is f32"),
        (1, replace(ANGLES, dims=("T", 32)), "angles is f32"),
        (1, replace(ANGLES, dims=("S", 64)), r"takes f32 \['T', 64\]"),
        (2, replace(WEIGHT, format="nvfp4"), "weight is nvfp4; takes fp8_128 or bf16"),
        (2, replace(WEIGHT, dims=(8192, 4000)), "groups of depth 4000"),
        (2, replace(WEIGHT, dims=(8192, 5120)), "groups of depth 5120 do not divide 64 heads"),
        (2, replace(WEIGHT, dims=(8200, 4096)), "8200 weight rows in 8 groups"),
        (2, replace(WEIGHT, dims=(16384, 4096)), "z has 8192 columns, the weight 16384 rows"),
    ],
)
def test_refuses(at: int, change: ValueFacts, reason: str) -> None:
    inputs = [O, ANGLES, WEIGHT]
    inputs[at] = change
    refusal = select(*inputs)
    assert isinstance(refusal, Refusal)
    assert re.search(reason, refusal.reason)


def test_refuses_another_number_of_inputs() -> None:
    assert select(O, ANGLES) == Refusal("takes 3 inputs and 1 output, not 2 and 1")


@pytest.mark.parametrize("key", INVERSE_ROPE_WO_A, ids=str)
def test_tiles_cover_every_batch_and_fit(key: tuple[str, str, bool]) -> None:
    tiles = INVERSE_ROPE_WO_A[key]
    limits = [tile.most for tile in tiles]
    assert limits[-1] == 0
    assert limits[:-1] == sorted(set(limits[:-1]))
    size = 1 if key[1] == "fp8_128" else 2
    for tile in tiles:
        stage = tile.depth * (tile.rows * size + tile.tokens * 2)
        others = tile.tokens * 256 + 24 * tile.stages + 4 * 4096 // 128 + 2048
        assert tile.stages * stage + others <= SMEM
        assert tile.tokens >= min(tile.most, 64)
        assert 1 <= tile.lead <= tile.stages


@pytest.mark.parametrize("key", INVERSE_ROPE_WO_A, ids=str)
def test_rows_have_the_same_bits_in_batches_of_up_to_32(key: tuple[str, str, bool]) -> None:
    orders = {(tile.wgmma, tile.warps_k) for tile in INVERSE_ROPE_WO_A[key] if 0 < tile.most <= 32}
    assert len(orders) == 1
