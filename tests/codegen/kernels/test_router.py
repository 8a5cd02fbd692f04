from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from dsv4c.codegen.kernel import ARCHS, NodeFacts, Refusal, ValueFacts, Workspace
from dsv4c.codegen.kernels import router as family
from dsv4c.codegen.render import render
from dsv4c.codegen.tiles.router import ROUTER

X = ValueFacts("tensor", "bf16", ("T", 4096))
GATE = ValueFacts("weight", "bf16", (256, 4096), format="bf16")
BIAS = ValueFacts("weight", "f32", (256,), format="f32")
TABLE = ValueFacts("weight", "i64", (129280, 6), format="i64")
IDS = ValueFacts("tensor", "i32", ("T",))
RESULTS = (
    ValueFacts("tensor", "i32", ("T", 6)),
    ValueFacts("tensor", "f32", ("T", 6)),
    ValueFacts("tensor", "i32", ("T", 6)),
    ValueFacts("tensor", "i32", (257,)),
)


def select(*inputs: ValueFacts, arch: str = "sm_90a") -> family.Params | Refusal:
    return family.select(NodeFacts(family.KIND, inputs, RESULTS, {"scale": 1.5}), arch)


def test_rendered_text(golden: Callable[[str, str], None]) -> None:
    """Without wgmma's products, which are a part of the linears' text."""
    params = family.choose(256, 6, 4096, 0, 1.5, "sm_100a")
    source = render(family.KIND, params, "sm_100a", ["L3"])
    golden(f"kernels/{source.name}.sm_100a.py", source.text)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("vocabulary", [0, 129280])
def test_rendered_text_has_no_lint(vocabulary: int, arch: str) -> None:
    params = family.choose(384, 6, 7168, vocabulary, 2.5, arch)
    text = render(family.KIND, params, arch).text
    assert max(len(line) for line in text.splitlines()) <= 110
    command = [sys.executable, "-m", "ruff", "check", "--select", "F,E7,W", "--isolated", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("inputs", "name"),
    [
        ((X, GATE, BIAS), "router_e256_k6_4096_x1p5"),
        ((X, replace(GATE, format="f32"), BIAS), "router_e256_k6_4096_x1p5_f32"),
        ((X, GATE, TABLE, IDS), "router_e256_k6_4096_x1p5_hash129280"),
    ],
)
def test_params_from_facts(inputs: tuple[ValueFacts, ...], name: str) -> None:
    params = select(*inputs)
    assert isinstance(params, family.Params)
    assert family.kernel_name(params, "sm_90a") == name
    assert family.workspaces(params) == (
        Workspace("f32", ("768*T",)),
        Workspace("i32", ("2*T",), zeroed=True),
    )


@pytest.mark.parametrize(
    ("at", "change", "reason"),
    [
        (0, replace(X, dtype="f32"), r"x is f32 \['T', 4096\]; takes bf16"),
        (1, replace(GATE, format="fp8_128"), "gate is fp8_128 .*; takes bf16 or f32 of 2 dims"),
        (1, replace(GATE, dims=(600, 4096)), "top 6 of 600 experts, depth 4096; takes up to"),
        (1, replace(GATE, dims=(256, 4080)), "depth 4080; takes up to"),
        (2, replace(BIAS, dims=(255,)), r"bias is f32 \[255\]; takes f32 \[256\]"),
        (2, replace(BIAS, format="bf16"), "bias is bf16"),
    ],
)
def test_refuses(at: int, change: ValueFacts, reason: str) -> None:
    inputs = [X, GATE, BIAS]
    inputs[at] = change
    refusal = select(*inputs)
    assert isinstance(refusal, Refusal)
    assert re.search(reason, refusal.reason)


def test_refuses_a_table_of_another_width_and_other_ids() -> None:
    refusal = select(X, GATE, replace(TABLE, dims=(129280, 8)), IDS)
    assert refusal == Refusal("table is i64 [129280, 8]; takes i64 with 6 columns")
    refusal = select(X, GATE, TABLE, replace(IDS, dtype="i64"))
    assert refusal == Refusal("ids is i64 ['T']; takes i32 ['T']")
    assert select(X, GATE) == Refusal("takes 3 or 4 inputs and 4 outputs, not 2 and 4")


@pytest.mark.parametrize("arch", ARCHS)
def test_tiles_cover_every_batch(arch: str) -> None:
    tiles = ROUTER[arch]
    limits = [tile.most for tile in tiles]
    assert limits[-1] == 0
    assert limits[:-1] == sorted(set(limits[:-1]))
    for tile in tiles:
        sums = 4 * tile.k_warps * tile.tokens * (tile.rows + 4)
        assert tile.tokens * tile.k_warps % 64 == 0
        assert sums <= 40_000


def test_parts_divide_k() -> None:
    """14 times 512 of Pro's K: two where a block takes up to four, seven where up to seven."""
    context = family.context(family.choose(384, 6, 7168, 0, 2.5, "sm_90a"))
    tiles = context["tiles"]
    assert isinstance(tiles, tuple)
    assert [tile[3] for tile in tiles] == [7, 2]


@pytest.mark.parametrize(
    ("experts", "top_k", "depth", "arch", "limits", "wgmma"),
    [
        (256, 6, 4096, "sm_90a", [8, 128, 256], True),
        (512, 16, 4096, "sm_90a", [8, 96], True),  # bits of more pairs would not fit
        (256, 6, 4096, "sm_100a", [8, 128, 256], False),
        (8, 2, 192, "sm_90a", [8, 128, 256], False),  # wgmma's kernel takes multiples of 128
    ],
)
def test_who_makes_the_logits(
    experts: int, top_k: int, depth: int, arch: str, limits: list[int], wgmma: bool
) -> None:
    context = family.context(family.choose(experts, top_k, depth, 0, 1.5, arch))
    tiles, many = context["tiles"], context["many"]
    assert isinstance(tiles, tuple)
    assert isinstance(many, tuple)
    assert [tile[0] for tile in tiles] == limits
    assert context["wgmma"] == wgmma
    assert many[-1][0] == 0
    assert all(most == 0 or most > limits[-1] for most, _, _ in many)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("form", family.FORMS)
@pytest.mark.parametrize(
    ("experts", "top_k", "depth"), [(384, 6, 7168), (256, 6, 4096), (8, 2, 192)]
)
def test_logits_of_many_tokens_are_of_all_of_k(
    experts: int, top_k: int, depth: int, form: str, arch: str
) -> None:
    """`choose_many` reads one part; the second third of the workspace is for counts."""
    context = family.context(family.choose(experts, top_k, depth, 0, 1.5, arch, form))
    many = context["many"]
    assert isinstance(many, tuple)
    assert context["wgmma"] or [tile[3] for _, tile, _ in many] == [1]
