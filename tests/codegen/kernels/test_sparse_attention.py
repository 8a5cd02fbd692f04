from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from dsv4c.codegen.kernel import ARCHS, NodeFacts, Refusal, ValueFacts
from dsv4c.codegen.kernels import sparse_attention as family
from dsv4c.codegen.render import render
from dsv4c.codegen.tiles.sparse_attention import SPARSE_ATTENTION

Q = ValueFacts("tensor", "bf16", ("T", 64, 512))
WINDOW = ValueFacts("state", "u8", ("pages", 74880), format="fp8", page=128, rope=64)
WINDOW_IDX = ValueFacts("tensor", "i32", ("T", 128))
COMPRESSED = replace(WINDOW, dims=("pages", 19008), page=32)
COMPRESSED_IDX = ValueFacts("tensor", "i32", ("T", 512))
SINK = ValueFacts("tensor", "f32", (64,))
ALL = (Q, WINDOW, WINDOW_IDX, COMPRESSED, COMPRESSED_IDX, SINK)


def select(*inputs: ValueFacts, arch: str = "sm_90a", **attrs: float) -> family.Params | Refusal:
    return family.select(NodeFacts(family.KIND, inputs, (inputs[0],), attrs), arch)


@pytest.mark.parametrize(("cache", "page"), [("fp8", 32), ("bf16", 0)])
def test_rendered_text(cache: str, page: int, golden: Callable[[str, str], None]) -> None:
    params = family.choose(64, cache, page, "sm_90a")
    source = render(family.KIND, params, "sm_90a", ["layers.0"])
    golden(f"kernels/{source.name}.sm_90a.py", source.text)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("cache", family.CACHES)
@pytest.mark.parametrize("page", [0, 1, 32])
def test_rendered_text_has_no_lint(cache: str, page: int, arch: str) -> None:
    text = render(family.KIND, family.choose(8, cache, page, arch), arch).text
    assert max(len(line) for line in text.splitlines()) <= 110
    command = [sys.executable, "-m", "ruff", "check", "--select", "F,E7,W", "--isolated", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert ("warpgroup.commit_group" in text) == (arch == "sm_90a")
    assert ("compressed_idx" in text) == bool(page)
    assert ("def decode(" in text) == (cache == "fp8")


@pytest.mark.parametrize(
    ("inputs", "name"),
    [
        (ALL, "sparse_attention_h64_w128_fp8_c32"),
        ((Q, WINDOW, WINDOW_IDX, SINK), "sparse_attention_h64_w128_fp8"),
        (
            (Q, WINDOW, WINDOW_IDX, replace(COMPRESSED, page=1), COMPRESSED_IDX, SINK),
            "sparse_attention_h64_w128_fp8_c1",
        ),
        (
            (
                replace(Q, dims=("T", 8, 512)),
                ValueFacts("state", "bf16", ("pages", 128, 512), format="bf16", page=128),
                WINDOW_IDX,
                ValueFacts("state", "bf16", ("pages", 32, 512), format="bf16", page=32),
                replace(COMPRESSED_IDX, dims=("T", "K")),
                replace(SINK, dims=(8,)),
            ),
            "sparse_attention_h8_w128_bf16_c32",
        ),
    ],
)
def test_params_from_facts(inputs: tuple[ValueFacts, ...], name: str) -> None:
    params = select(*inputs)
    assert isinstance(params, family.Params)
    assert family.kernel_name(params, "sm_90a") == name
    assert params.scale == 512**-0.5
    context = family.context(params)
    assert context["blocks"] == 1
    assert bool(context["splits"]) == (len(inputs) == 6)


def test_pages_are_as_the_cache_layout_says() -> None:
    pages = [family.page_bytes(entries, "fp8") for entries in (128, 32, 1)]
    assert pages == [74880, 19008, 1152]
    assert family.page_bytes(32, "bf16") == 32 * 512 * 2


def test_heads_come_in_blocks_of_64() -> None:
    blocks = [
        family.context(family.choose(heads, "fp8", 32, "sm_90a"))["blocks"]
        for heads in (8, 64, 72, 128)
    ]
    assert blocks == [1, 1, 2, 2]


def test_scale_is_an_attribute() -> None:
    params = select(*ALL, scale=0.25)
    assert isinstance(params, family.Params)
    assert params.scale == 0.25


@pytest.mark.parametrize(
    ("at", "change", "reason"),
    [
        (0, replace(Q, dims=("T", 64, 256)), "head dim 256, not 512"),
        (0, replace(Q, dims=("T", 60, 512)), "60 heads, not a multiple of 8 up to 128"),
        (0, replace(Q, dims=("T", 136, 512)), "136 heads"),
        (0, replace(Q, dims=("T", "H", 512)), "H heads"),
        (0, replace(Q, dtype="f32"), "q f32, o f32, sink f32: not bf16, bf16, f32"),
        (1, replace(WINDOW, format="f32"), "cache format f32, not fp8 or bf16"),
        (1, replace(WINDOW, page=64), "64 entries per page, not 128"),
        (1, replace(WINDOW, rope=32), "32 rope dims, not 64"),
        (2, replace(WINDOW_IDX, dims=("T", 64)), "window of 64 rows, not 128"),
        (2, replace(WINDOW_IDX, dtype="i64"), "indices of dtype i64, not i32"),
        (3, replace(COMPRESSED, format="bf16"), "caches of two formats, fp8 and bf16"),
        (3, replace(COMPRESSED, page=2), "2 entries per page, not 1 or 32"),
        (4, replace(COMPRESSED_IDX, dtype="i64"), "indices of dtype i64"),
        (5, replace(SINK, dtype="bf16"), "sink bf16"),
    ],
)
def test_refuses(at: int, change: ValueFacts, reason: str) -> None:
    inputs = list(ALL)
    inputs[at] = change
    refusal = select(*inputs)
    assert isinstance(refusal, Refusal)
    assert re.search(reason, refusal.reason)


def test_refuses_another_number_of_inputs() -> None:
    assert select(Q, WINDOW) == Refusal("2 inputs and 1 outputs, not 4 or 6 and 1")


@pytest.mark.parametrize("arch", ARCHS)
def test_tiles_fit(arch: str) -> None:
    tile = SPARSE_ATTENTION[arch]
    # 512 threads share 64 K registers; a budget is a multiple of 8
    assert 256 * (tile.producer_registers + tile.consumer_registers) <= 65536
    assert tile.producer_registers % 8 == tile.consumer_registers % 8 == 0
    limits = [limit for limit, _ in tile.splits]
    assert limits == sorted(set(limits))
    # a cluster's blocks divide the 64 heads among them
    assert all(split in (2, 4, 8, 16) for _, split in tile.splits)


@pytest.mark.parametrize(("heads", "largest"), [(8, 8), (64, 8), (128, 16)])
def test_clusters_of_16_are_for_two_blocks_of_heads(heads: int, largest: int) -> None:
    splits = family.context(family.choose(heads, "fp8", 32, "sm_90a"))["splits"]
    assert isinstance(splits, tuple)
    assert max(split for _, split, _ in splits) == largest


@pytest.mark.parametrize(
    ("heads", "splits"),
    [
        (8, ((15, 8, 16), (28, 4, 64), (66, 2, 64))),
        (64, ((3, 8, 16), (7, 8, 32), (15, 8, 64), (28, 4, 64), (66, 2, 64))),
        (72, ((2, 16, 32), (3, 16, 64), (5, 8, 32), (7, 8, 64), (14, 4, 64), (33, 2, 64))),
        (128, ((1, 16, 32), (3, 16, 64), (7, 8, 64), (14, 4, 64), (33, 2, 64))),
    ],
)
def test_few_tokens_spread_their_heads(heads: int, splits: tuple[tuple[int, ...], ...]) -> None:
    assert family.context(family.choose(heads, "fp8", 32, "sm_90a"))["splits"] == splits
    assert all(part >= 2 * split for _, split, part in splits)
