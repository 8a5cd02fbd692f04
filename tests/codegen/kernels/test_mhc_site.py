"""The three families of hyper-connections: what they take and refuse, their tiles, their text."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dsv4c.codegen.build import build_kernels
from dsv4c.codegen.cache import KernelCache
from dsv4c.codegen.kernel import ARCHS, NodeFacts, Refusal, ValueFacts
from dsv4c.codegen.kernels import mhc_first, mhc_head, mhc_seam, mhc_site
from dsv4c.codegen.render import render
from dsv4c.codegen.tiles.mhc_site import MHC_SITE, SiteTile

D = 4096
STREAMS = ValueFacts("tensor", "bf16", ("T", 4, D))
ROW = ValueFacts("tensor", "bf16", ("T", D))
POST = ValueFacts("tensor", "f32", ("T", 4))
COMB = ValueFacts("tensor", "f32", ("T", 4, 4))
IDS = ValueFacts("tensor", "i32", ("T",))
ROWS = ValueFacts("tensor", "i32", ("R",))
X = ValueFacts("tensor", "bf16", ("R", D))


def weight(format_: str, *dims: int | str) -> ValueFacts:
    return ValueFacts("weight", format_, dims, format=format_)


FN, BASE, SCALE = weight("f32", 24, 4 * D), weight("f32", 24), weight("f32", 3)
TABLE, NORM = weight("bf16", 2048, D), weight("bf16", D)
SITE = (FN, BASE, SCALE, NORM)
NEXT = (STREAMS, POST, COMB, ROW)
GIVEN = {
    "mhc_seam": ((STREAMS, ROW, POST, COMB, *SITE), NEXT),
    "mhc_first": ((IDS, TABLE, *SITE), NEXT),
    "mhc_head": (
        (STREAMS, ROW, POST, COMB, ROWS, weight("f32", 4, 4 * D), weight("f32", 4), weight("f32", 1), NORM),
        (X,),
    ),
}  # fmt: skip
FAMILIES = {"mhc_seam": mhc_seam, "mhc_first": mhc_first, "mhc_head": mhc_head}


def select(kind: str, at: int = -1, change: ValueFacts | None = None) -> mhc_site.Params | Refusal:
    inputs, outputs = GIVEN[kind]
    if change is not None:
        inputs = tuple(change if i == at else value for i, value in enumerate(inputs))
    attrs = {"eps": 1e-5, "mix_eps": 1e-7, "iters": 7}
    return FAMILIES[kind].select(NodeFacts(kind, inputs, outputs, attrs), "sm_90a")


@pytest.mark.parametrize(
    ("kind", "name"),
    [("mhc_seam", "mhc_seam_4096"), ("mhc_first", "mhc_first_4096_v2048"), ("mhc_head", "mhc_head_4096")],
)  # fmt: skip
def test_takes_flash(kind: str, name: str) -> None:
    params = select(kind)
    assert isinstance(params, mhc_site.Params)
    assert (params.width, params.eps, params.mix_eps) == (D, 1e-5, 1e-7)
    assert FAMILIES[kind].kernel_name(params, "sm_90a") == name
    assert params.values().get("iters", 7) == 7


@pytest.mark.parametrize(
    ("kind", "at", "change", "reason"),
    [
        ("mhc_seam", 0, replace(STREAMS, dims=("T", 2, D)), "streams are ['T', 2, 4096]; takes [T, 4, d]"),
        ("mhc_seam", 0, replace(STREAMS, dims=("T", 4, "d")), "the width must be known, not d"),
        ("mhc_seam", 0, replace(STREAMS, dtype="f32"), "streams is f32 ['T', 4, 4096]; takes bf16"),
        ("mhc_seam", 0, replace(STREAMS, dims=("T", 4, 80)), "width 80: not a multiple of 32"),
        ("mhc_seam", 0, replace(STREAMS, dims=("T", 4, 16384)), "width 16384: not a multiple of 32"),
        ("mhc_seam", 1, replace(ROW, dims=("S", D)), "y is bf16 ['S', 4096]; takes bf16 ['T', 4096]"),
        ("mhc_seam", 3, replace(COMB, dtype="bf16"), "comb is bf16"),
        ("mhc_seam", 4, weight("bf16", 24, 4 * D), "fn is bf16 [24, 16384]; takes f32 [24, 16384]"),
        ("mhc_seam", 7, weight("f32", D), "norm is f32"),
        ("mhc_first", 0, replace(IDS, dtype="i64"), "ids is i64 ['T']; takes i32 ['T']"),
        ("mhc_first", 1, weight("f32", 2048, D), "table is f32"),
        ("mhc_first", 1, weight("bf16", "V", D), "the table's rows must be known, not V"),
        ("mhc_head", 4, replace(ROWS, dtype="i64"), "rows is i64"),
        ("mhc_head", 5, FN, "fn is f32 [24, 16384]; takes f32 [4, 16384]"),
        ("mhc_head", 7, SCALE, "scale is f32 [3]; takes f32 [1]"),
    ],
)  # fmt: skip
def test_refuses(kind: str, at: int, change: ValueFacts, reason: str) -> None:
    refusal = select(kind, at, change)
    assert isinstance(refusal, Refusal)
    assert reason in refusal.reason


@pytest.mark.parametrize(
    ("kind", "count", "reason"),
    [
        ("mhc_seam", 7, "takes 8 inputs and 4 outputs, not 7 and 4"),
        ("mhc_first", 5, "takes 6 inputs and 4 outputs, not 5 and 4"),
        ("mhc_head", 8, "takes 9 inputs and 1 outputs, not 8 and 1"),
    ],
)
def test_refuses_another_number_of_inputs(kind: str, count: int, reason: str) -> None:
    inputs, outputs = GIVEN[kind]
    facts = NodeFacts(kind, inputs[:count], outputs, {})
    assert FAMILIES[kind].select(facts, "sm_90a") == Refusal(reason)


@pytest.mark.parametrize("width", [32, 64, 128, 160, 256, 512, 1024, 2048, 4096, 5120, 7168])
@pytest.mark.parametrize("kind", FAMILIES)
def test_tiles_cover_the_width_and_fit(kind: str, width: int) -> None:
    tiles = mhc_site.site_tiles(kind, width)
    assert [tile.most for tile in tiles] == [*sorted(tile.most for tile in tiles[:-1]), 0]
    for tile in tiles:
        warps, rest = divmod(width, tile.blocks * tile.slices * 32)
        assert rest == 0
        assert 2 * tile.blocks <= 32 * warps
        assert 32 * (tile.groups * warps + (4 if tile.staged else 1)) <= 1024
        # each block makes post and comb of the tiles of one group, which takes another in between
        assert tile.blocks % tile.groups == 0
        assert tile.blocks == 1 or tile.blocks >= 2 * tile.groups
        # ids of barriers end at 15
        assert 3 * tile.groups < 16
        channels = width // tile.blocks
        stage = 8 * ((10 * channels + 127) // 128 * 128 + 64 + 80) if tile.staged else 0
        group = 4 * (8 * 26 * warps + 8 * 6 * tile.blocks) + stage
        later = 4 * 8 * 21 * tile.blocks
        assert channels * 4 * 24 * 4 + later + tile.groups * group + 512 <= 227 * 1024


@pytest.mark.parametrize("tiles", MHC_SITE.values())
def test_a_tokens_bits_do_not_depend_on_the_batch(tiles: tuple[SiteTile, ...]) -> None:
    assert len({(tile.blocks, tile.slices) for tile in tiles}) == 1


def test_rendered_text(golden: Callable[[str, str], None]) -> None:
    source = render("mhc_seam", mhc_seam.choose(D), "sm_90a", ["layers.0.ffn"])
    golden(f"kernels/{source.name}.sm_90a.py", source.text)


def all_params(width: int) -> dict[str, mhc_site.Params]:
    return {
        "mhc_seam": mhc_seam.choose(width),
        "mhc_first": mhc_first.choose(width, 2048),
        "mhc_head": mhc_head.choose(width),
    }


def test_rendered_text_has_no_lint() -> None:
    for kind, params in all_params(D).items():
        text = render(kind, params, "sm_90a").text
        assert max(len(line) for line in text.splitlines()) <= 110
        command = [sys.executable, "-m", "ruff", "check", "--select", "F,E7,W", "--isolated", "-"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_compiles_without_a_gpu(arch: str, tmp_path: Path) -> None:
    sources = [render(kind, params, arch) for kind, params in all_params(256).items()]
    entries = build_kernels(sources, cache=KernelCache(tmp_path))
    assert [entry.name for entry in entries] == [source.name for source in sources]
    assert all(entry.resources.spills == 0 for entry in entries)
