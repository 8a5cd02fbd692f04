from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dsv4c.codegen.build import build_kernels
from dsv4c.codegen.cache import KernelCache
from dsv4c.codegen.kernel import ARCHS, NodeFacts, Refusal, ValueFacts
from dsv4c.codegen.kernels import latent_compress as family
from dsv4c.codegen.render import render
from dsv4c.codegen.tiles.latent_compress import LATENT_COMPRESS

Golden = Callable[[str, str], None]
T = "T"


def tensor(dtype: str, *dims: int | str) -> ValueFacts:
    return ValueFacts("tensor", dtype, dims)


def weight(dtype: str, *dims: int) -> ValueFacts:
    return ValueFacts("weight", dtype, dims, format=dtype)


def cache(form: str, page: int, size: int, rope: int) -> ValueFacts:
    return ValueFacts("state", "u8", ("pages", size), format=form, page=page, rope=rope)


def compressor(width: int, ratio: int, overlap: bool, where: ValueFacts) -> list[ValueFacts]:
    columns, rows = width * (1 + overlap), ratio * (1 + overlap)
    return [
        ValueFacts("state", "f32", ("S", rows, 2 * columns)),
        *(tensor("f32", T, columns) for _ in range(2)),
        weight("f32", ratio, columns),
        weight("bf16", width),
        where,
    ]


LATENT = [tensor("bf16", T, 1024), weight("bf16", 1024)]
STEP = [*(tensor("i32", T) for _ in range(3)), tensor("f32", T, 64), tensor("i32", T)]
MAIN = compressor(512, 4, True, cache("fp8", 32, 19008, 64))
INDEX = compressor(128, 4, True, cache("mxfp4", 32, 2176, 0))
CSA = [*LATENT, *MAIN, *INDEX, *STEP]
HCA = [*LATENT, *compressor(512, 128, False, cache("fp8", 1, 1152, 64)), *STEP]


def select(inputs: list[ValueFacts], eps: float = 1e-6) -> family.Params | Refusal:
    return family.select(NodeFacts(family.KIND, tuple(inputs), (), {"eps": eps}), "sm_90a")


def test_takes_both_compressors_of_a_csa_layer() -> None:
    params = select(CSA, eps=1e-5)
    assert isinstance(params, family.Params)
    assert params == family.Params(1024, 4, 128, "fp8", 32, 1e-5, "sm_90a")
    assert family.kernel_name(params, "sm_90a") == "latent_compress_r1024_m4_i128_fp8_n32"
    values = family.context(params)
    assert (values["columns"], values["total"], values["warps"]) == (1024, 8, 5)
    assert (values["page_bytes"], values["index_page_bytes"]) == (19008, 2176)
    assert values["units"] == LATENT_COMPRESS["sm_90a"].overlap


def test_takes_the_compressor_of_an_hca_layer() -> None:
    params = select(HCA)
    assert isinstance(params, family.Params)
    assert params == family.Params(1024, 128, 0, "fp8", 1, 1e-6, "sm_90a")
    assert family.kernel_name(params, "sm_90a") == "latent_compress_r1024_m128_fp8_n1"
    values = family.context(params)
    assert (values["columns"], values["total"], values["page_bytes"]) == (512, 128, 1152)
    assert values["units"] == LATENT_COMPRESS["sm_90a"].cluster


def test_takes_bf16_caches() -> None:
    plain = [replace(one, dtype="bf16", format="bf16") for one in (CSA[7], CSA[13])]
    params = select([*CSA[:7], plain[0], *CSA[8:13], plain[1], *CSA[14:]])
    assert isinstance(params, family.Params)
    assert params.cache == "bf16"


@pytest.mark.parametrize("arch", ARCHS)
def test_units_grow_with_the_batch_and_fit_the_ballots(arch: str) -> None:
    tile = LATENT_COMPRESS[arch]
    for units, most in ((tile.overlap, 32), (tile.cluster, 1 << 30)):
        assert [unit[0] for unit in units[:-1]] == sorted({unit[0] for unit in units[:-1]})
        assert units[-1][0] == 0
        assert all(count <= 32 or count % 32 == 0 for _, count, _ in units)
        assert all(count <= most for _, count, _ in units)


REFUSALS: dict[str, tuple[list[ValueFacts], int, ValueFacts, str]] = {
    "q": (CSA, 0, tensor("bf16", T, 1020), "the latent's width must be a multiple of 8, not 1020"),
    "q_norm": (CSA, 1, weight("f32", 1024), "q_norm is f32 [1024]; takes bf16 [1024]"),
    "kv": (CSA, 3, tensor("bf16", T, 1024), "kv is bf16 ['T', 1024]; takes f32 ['T', 1024]"),
    "ratio": (CSA, 5, weight("f32", 8, 1024), "windows of 8 positions; takes 2 or 4"),
    "hca ratio": (HCA, 5, weight("f32", 16, 512), "windows of 16 positions; takes 64 or 128"),
    "norm": (CSA, 6, weight("bf16", 256), "norm is bf16 [256]; takes bf16 [512]"),
    "cache": (CSA, 7, cache("f32", 32, 512, 64), "cache is f32; takes fp8 or bf16"),
    "rope": (CSA, 7, cache("fp8", 32, 512, 32), "cache has page 32 and rope 32, not 64"),
    "index gate": (
        CSA,
        10,
        tensor("f32", T, 64),
        "index_gate is f32 ['T', 64]; takes f32 ['T', 256]",
    ),
    "index cache": (
        CSA,
        13,
        cache("bf16", 32, 128, 0),
        "index cache is bf16 with page 32; takes mxfp4 with page 32",
    ),
    "slot": (CSA, 15, tensor("i64", T), "slot is i64 ['T']; takes i32 ['T']"),
    "angles": (HCA, 11, tensor("f32", T, 32), "angles is f32 ['T', 32]; takes f32 ['T', 64]"),
}


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS)
def test_refuses(case: tuple[list[ValueFacts], int, ValueFacts, str]) -> None:
    inputs, at, change, reason = case
    assert select([*inputs[:at], change, *inputs[at + 1 :]]) == Refusal(reason)


def test_refuses_another_number_of_inputs() -> None:
    assert select(CSA[1:]) == Refusal("takes 13 or 19 inputs, not 18")
    assert select([*CSA, *INDEX]) == Refusal("takes 13 or 19 inputs, not 25")


@pytest.mark.parametrize("inputs", [CSA, HCA], ids=["csa", "hca"])
def test_rendered_text(inputs: list[ValueFacts], golden: Golden) -> None:
    params = select(inputs)
    assert isinstance(params, family.Params)
    source = render(family.KIND, params, "sm_90a")
    assert max(len(line) for line in source.text.splitlines()) <= 110
    golden(f"kernels/{source.name}.sm_90a.py", source.text)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_compiles(arch: str, tmp_path: Path) -> None:
    chosen = [
        family.choose(128, 4, 128, "fp8", 32, arch),
        family.choose(128, 128, 0, "bf16", 1, arch),
    ]
    sources = [render(family.KIND, params, arch) for params in chosen]
    built = build_kernels(sources, cache=KernelCache(tmp_path))
    assert [entry.name for entry in built] == [source.name for source in sources]
    assert all(0 < entry.resources.registers <= 255 for entry in built)
