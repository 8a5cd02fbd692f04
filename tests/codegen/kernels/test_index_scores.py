from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dsv4c.codegen.build import build_kernels
from dsv4c.codegen.cache import KernelCache
from dsv4c.codegen.kernel import ARCHS, NodeFacts, Refusal, ValueFacts
from dsv4c.codegen.kernels import index_scores as family
from dsv4c.codegen.render import render
from dsv4c.codegen.tiles.index_scores import INDEX_SCORES
from dsv4c.ir.cache import CacheLayout

Q = ValueFacts("tensor", "bf16", ("T", 64, 128))
WEIGHTS = ValueFacts("tensor", "f32", ("T", 64))
CACHE = ValueFacts("state", "u8", ("pages", 2176), format="mxfp4", page=32, rope=0)
POS = ValueFacts("tensor", "i32", ("T",))
TABLE = ValueFacts("tensor", "i32", ("S", "P"))
SCORES = ValueFacts("tensor", "f32", ("T", "32*P"))
ALL = (Q, WEIGHTS, CACHE, POS, POS, TABLE)
SHARED_MEMORY = 227 * 1024


def select(*inputs: ValueFacts, arch: str = "sm_90a") -> family.Params | Refusal:
    attrs = {"ratio": 4, "page": 32, "scale": 0.011}
    return family.select(NodeFacts(family.KIND, inputs, (SCORES,), attrs), arch)


def test_rendered_text(golden: Callable[[str, str], None]) -> None:
    source = render(family.KIND, family.choose(64, "mxfp4", 4, "sm_90a"), "sm_90a", ["layers.2"])
    golden(f"kernels/{source.name}.sm_90a.py", source.text)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("cache", family.CACHES)
def test_rendered_text_has_no_lint(cache: str, arch: str) -> None:
    text = render(family.KIND, family.choose(8, cache, 4, arch), arch).text
    assert max(len(line) for line in text.splitlines()) <= 120
    command = [sys.executable, "-m", "ruff", "check", "--select", "F,E7,W", "--isolated", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert ("warpgroup.commit_group" in text) == (arch == "sm_90a")
    assert ("def decode(" in text) == (cache == "mxfp4")


@pytest.mark.parametrize(
    ("at", "change", "name"),
    [
        (0, Q, "index_scores_h64_mxfp4_r4"),
        (0, replace(Q, dims=("T", 32, 128)), "index_scores_h32_mxfp4_r4"),
        (
            2,
            replace(CACHE, dtype="bf16", dims=("pages", 32, 128), format="bf16"),
            "index_scores_h64_bf16_r4",
        ),
    ],
)
def test_params_from_facts(at: int, change: ValueFacts, name: str) -> None:
    inputs = list(ALL)
    inputs[at] = change
    params = select(*inputs)
    assert isinstance(params, family.Params)
    assert family.kernel_name(params, "sm_90a") == name
    assert params.scale == 0.011


def test_the_scale_is_that_of_the_model() -> None:
    assert family.choose(64, "mxfp4", 4, "sm_90a").scale == pytest.approx(0.0110485435)


@pytest.mark.parametrize(
    ("at", "change", "reason"),
    [
        (0, replace(Q, dims=("T", 64, 64)), "keys of 64 dims, not 128"),
        (0, replace(Q, dims=("T", 60, 128)), "60 heads, not a multiple of 8 up to 64"),
        (0, replace(Q, dims=("T", 128, 128)), "128 heads"),
        (0, replace(Q, dims=("T", "h", 128)), "h heads"),
        (0, replace(Q, dtype="f32"), "q f32, weights f32: not bf16, f32"),
        (1, replace(WEIGHTS, dtype="bf16"), "weights bf16"),
        (2, replace(CACHE, format="f32"), "cache format f32, not mxfp4 or bf16"),
        (2, replace(CACHE, page=64), "64 entries per page, not 32"),
    ],
)
def test_refuses(at: int, change: ValueFacts, reason: str) -> None:
    inputs = list(ALL)
    inputs[at] = change
    refusal = select(*inputs)
    assert isinstance(refusal, Refusal)
    assert re.search(reason, refusal.reason)


def test_refuses_another_number_of_inputs() -> None:
    assert select(Q, CACHE) == Refusal("2 inputs and 1 outputs, not 6 and 1")


def test_pages_are_as_the_cache_layout_says() -> None:
    for cache in family.CACHES:
        layout = CacheLayout(cache, family.DIM, 0, family.PAGE)
        assert family.PAGE_BYTES[cache] == layout.page * layout.entry_bytes


@pytest.mark.parametrize("arch", ARCHS)
def test_tiles_fit(arch: str) -> None:
    tiles = INDEX_SCORES[arch]
    for cache, found in (("mxfp4", tiles.mxfp4), ("bf16", tiles.bf16)):
        limits = [tile.most for tile in found]
        assert limits[:-1] == sorted(set(limits[:-1]))
        assert limits[-1] == 0
        for tile in found:
            decode = (arch, cache, tile.tokens) == ("sm_90a", "mxfp4", 1)
            assert not decode or tile.warpgroups == 3
            pages = tile.stages * (4 if decode else 2)
            ring = tile.warpgroups * pages * family.PAGE_BYTES[cache]
            queries = tile.tokens * family.MAX_HEADS * (2 * family.DIM + 4)
            assert tile.per_sm * (ring + queries + 2048) <= SHARED_MEMORY


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_compiles_without_spills(arch: str, tmp_path: Path) -> None:
    sources = [render(family.KIND, family.choose(8, c, 4, arch), arch) for c in family.CACHES]
    entries = build_kernels(sources, cache=KernelCache(tmp_path), workers=1)
    assert [entry.resources.spills for entry in entries] == [0, 0]
