from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dsv4c.codegen.build import build_kernels
from dsv4c.codegen.cache import KernelCache
from dsv4c.codegen.kernel import ARCHS, NodeFacts, Refusal, ValueFacts
from dsv4c.codegen.kernels import qnorm_rope_kv_insert as family
from dsv4c.codegen.render import render

Q = ValueFacts("tensor", "bf16", ("T", 64, 512))
KV = ValueFacts("tensor", "bf16", ("T", 512))
NORM = ValueFacts("weight", "bf16", (512,), format="bf16")
ANGLES = ValueFacts("tensor", "f32", ("T", 64))
WINDOW = ValueFacts("state", "u8", ("pages", 74880), format="fp8", page=128, rope=64)
SLOT = ValueFacts("tensor", "i32", ("T",))
INDEX = ValueFacts("tensor", "bf16", ("T", 32, 128))
INPUTS = (Q, KV, NORM, ANGLES, WINDOW, SLOT)


def select(*inputs: ValueFacts, eps: float = 1e-6) -> family.Params | Refusal:
    facts = NodeFacts(family.KIND, inputs, (Q, WINDOW), {"eps": eps})
    return family.select(facts, "sm_90a")


def test_takes_flash_with_an_fp8_cache() -> None:
    params = select(*INPUTS, eps=1e-5)
    assert isinstance(params, family.Params)
    assert (params.heads, params.cache, params.page, params.eps) == (64, "fp8", 128, 1e-5)
    assert family.kernel_name(params, "sm_90a") == "qnorm_rope_kv_insert_h64_fp8_n128"
    assert family.context(params) == {"page_bytes": 74880, "hadamard_scale": 128**-0.5}


def test_takes_the_query_of_an_indexer(golden: Callable[[str, str], None]) -> None:
    params = select(*INPUTS, INDEX)
    assert isinstance(params, family.Params)
    assert (params.heads, params.index_heads) == (64, 32)
    source = render(family.KIND, params, "sm_90a")
    assert source.name == "qnorm_rope_kv_insert_h64_fp8_n128_i32"
    golden(f"kernels/{source.name}.sm_90a.py", source.text)


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        (
            replace(INDEX, dims=("T", 32, 64)),
            "index_q is bf16 ['T', 32, 64]; takes bf16 ['T', 32, 128]",
        ),
        (
            replace(INDEX, dims=("T", 4096)),
            "index_q is bf16 ['T', 4096]; takes bf16 ['T', '?', 128]",
        ),
        (
            replace(INDEX, dims=("T", 30, 128)),
            "heads of the indexer must be a multiple of 4, not 30",
        ),
    ],
)
def test_refuses_an_indexer(index: ValueFacts, reason: str) -> None:
    assert select(*INPUTS, index) == Refusal(reason)


@pytest.mark.slow
def test_compiles_for_both_archs(tmp_path: Path) -> None:
    sources = [
        render(family.KIND, family.choose(8, cache, 128, arch, 32), arch)
        for arch in ARCHS
        for cache in family.CACHES
    ]
    # one function name each in a library; here objects are all that is wanted
    sources = [replace(s, name=f"{s.name}_{s.arch}") for s in sources]
    built = build_kernels(sources, cache=KernelCache(tmp_path))
    assert [entry.resources.spills for entry in built] == [0] * 4


def test_takes_a_bf16_cache() -> None:
    window = ValueFacts("state", "bf16", ("pages", 128, 512), format="bf16", page=128, rope=64)
    params = select(*INPUTS[:4], window, SLOT)
    assert isinstance(params, family.Params)
    assert params.cache == "bf16"


@pytest.mark.parametrize(("page", "size"), [(128, 74880), (32, 19008), (1, 1152)])
def test_page_bytes(page: int, size: int) -> None:
    assert family.context(family.choose(64, "fp8", page, "sm_90a"))["page_bytes"] == size


@pytest.mark.parametrize(
    ("at", "change", "reason"),
    [
        (0, replace(Q, dims=("T", 64, 256)), r"q is bf16 \['T', 64, 256\]; takes bf16"),
        (0, replace(Q, dims=("T", "H", 512)), "heads must be known, not H"),
        (0, replace(Q, dtype="f32"), "q is f32"),
        (1, replace(KV, dims=("S", 512)), r"kv is bf16 \['S', 512\]; takes bf16 \['T', 512\]"),
        (2, replace(NORM, dtype="f32"), "kv_norm is f32"),
        (3, replace(ANGLES, dims=("T", 32)), "angles is"),
        (4, replace(WINDOW, format="f32"), "window cache is f32; takes fp8 or bf16"),
        (4, replace(WINDOW, rope=32), "page 128 and rope 32, not 64"),
        (5, replace(SLOT, dtype="i64"), "window_slot is i64"),
    ],
)
def test_refuses(at: int, change: ValueFacts, reason: str) -> None:
    import re

    inputs = [*INPUTS]
    inputs[at] = change
    refusal = select(*inputs)
    assert isinstance(refusal, Refusal)
    assert re.search(reason, refusal.reason)


def test_refuses_another_number_of_inputs() -> None:
    assert select(*INPUTS[:5]) == Refusal("takes 6 or 7 inputs, not 5")
