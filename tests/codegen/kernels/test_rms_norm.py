from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dsv4c.codegen.build import build_kernels
from dsv4c.codegen.cache import KernelCache
from dsv4c.codegen.kernel import ARCHS, NodeFacts, Refusal, ValueFacts
from dsv4c.codegen.kernels import rms_norm as family
from dsv4c.codegen.render import render

X = ValueFacts("tensor", "bf16", ("T", 1024))
WEIGHT = ValueFacts("weight", "bf16", (1024,), format="bf16")


def select(*inputs: ValueFacts, eps: float = 1e-6) -> family.Params | Refusal:
    return family.select(NodeFacts(family.KIND, inputs, (X,), {"eps": eps}), "sm_90a")


def test_takes_the_latent_of_flash() -> None:
    params = select(X, WEIGHT, eps=1e-5)
    assert isinstance(params, family.Params)
    assert params == family.Params(1024, "bf16", 1e-5, warps=4, pdl=True)
    assert family.kernel_name(params, "sm_90a") == "rms_norm_1024"
    assert family.context(params) == {"vectors": 128, "turns": 1}


@pytest.mark.parametrize(
    ("width", "warps", "turns"), [(128, 1, 1), (520, 3, 1), (1536, 6, 1), (7168, 8, 4)]
)
def test_a_block_is_as_wide_as_its_row(width: int, warps: int, turns: int) -> None:
    params = family.choose(width, "f32", "sm_90a")
    assert params.warps == warps
    assert family.context(params)["turns"] == turns
    assert family.kernel_name(params, "sm_90a") == f"rms_norm_{width}_f32"


@pytest.mark.parametrize(
    ("x", "weight", "reason"),
    [
        (replace(X, dtype="f32"), WEIGHT, "x is f32 ['T', 1024]; takes bf16 rows"),
        (replace(X, dims=("T", 4, 1024)), WEIGHT, "x is bf16 ['T', 4, 1024]; takes bf16 rows"),
        (replace(X, dims=("T", 1020)), WEIGHT, "rows of 1020; takes multiples of 8"),
        (X, replace(WEIGHT, format="mxfp4"), "the weight is mxfp4; takes bf16 or f32"),
    ],
)
def test_refuses(x: ValueFacts, weight: ValueFacts, reason: str) -> None:
    assert select(x, weight) == Refusal(reason)


def test_refuses_another_number_of_inputs() -> None:
    assert select(X) == Refusal("takes 2 inputs, not 1")


def test_rendered_text(golden: Callable[[str, str], None]) -> None:
    source = render(family.KIND, family.choose(1024, "bf16", "sm_90a"), "sm_90a")
    golden(f"kernels/{source.name}.sm_90a.py", source.text)


@pytest.mark.parametrize("arch", ARCHS)
def test_compiles(arch: str, tmp_path: Path) -> None:
    source = render(family.KIND, family.choose(520, "bf16", arch), arch)
    (entry,) = build_kernels([source], cache=KernelCache(tmp_path), workers=1)
    assert entry.resources.spills == 0
