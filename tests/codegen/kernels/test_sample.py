from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dsv4c.codegen.build import build_kernels
from dsv4c.codegen.cache import KernelCache
from dsv4c.codegen.kernel import ARCHS, NodeFacts, Refusal, ValueFacts
from dsv4c.codegen.kernels import sample as family
from dsv4c.codegen.render import render

LOGITS = ValueFacts("tensor", "f32", ("R", 129280))
FLOAT = ValueFacts("tensor", "f32", ("R",))
INT = ValueFacts("tensor", "i32", ("R",))
SEED = ValueFacts("tensor", "i32", ("R", 2))
INPUTS = (LOGITS, FLOAT, INT, FLOAT, SEED, INT)


def select(*inputs: ValueFacts) -> family.Params | Refusal:
    return family.select(NodeFacts(family.KIND, inputs, (INT,), {}), "sm_90a")


def test_takes_the_vocabulary_of_flash() -> None:
    params = select(*INPUTS)
    assert isinstance(params, family.Params)
    assert params == family.Params(129280, blocks=8, threads=1024, pdl=True)
    assert family.kernel_name(params, "sm_90a") == "sample_129280"
    context = family.context(params)
    assert (context["items"], context["index_bits"]) == (16, 17)


@pytest.mark.parametrize(
    ("vocab", "blocks", "items"), [(17, 1, 1), (2048, 1, 2), (8192, 1, 8), (33333, 8, 5)]
)
def test_small_vocabularies_take_fewer_blocks(vocab: int, blocks: int, items: int) -> None:
    params = family.choose(vocab, "sm_90a")
    assert params.blocks == blocks
    assert family.context(params)["items"] == items


@pytest.mark.parametrize(
    ("at", "change", "reason"),
    [
        (0, replace(LOGITS, dims=("R", 1 << 19)), "a vocabulary of 524288; takes at most 262144"),
        (0, replace(LOGITS, dims=("R", "V")), "a vocabulary of V; takes at most 262144"),
        (0, replace(LOGITS, dtype="bf16"), "logits is bf16 ['R', 129280]; takes f32"),
        (2, FLOAT, "top_k is f32 ['R']; takes i32 ['R']"),
        (4, INT, "seed is i32 ['R']; takes i32 ['R', 2]"),
        (5, replace(INT, dims=("T",)), "position is i32 ['T']; takes i32 ['R']"),
    ],
)
def test_refuses(at: int, change: ValueFacts, reason: str) -> None:
    inputs = [*INPUTS]
    inputs[at] = change
    refusal = select(*inputs)
    assert isinstance(refusal, Refusal)
    assert refusal.reason.startswith(reason)


def test_refuses_another_number_of_inputs() -> None:
    assert select(*INPUTS[:5]) == Refusal("takes 6 inputs, not 5")


def test_rendered_text(golden: Callable[[str, str], None]) -> None:
    source = render(family.KIND, family.choose(129280, "sm_90a"), "sm_90a")
    golden(f"kernels/{source.name}.sm_90a.py", source.text)


@pytest.mark.parametrize("arch", ARCHS)
def test_compiles(arch: str, tmp_path: Path) -> None:
    source = render(family.KIND, family.choose(17, arch), arch)
    (entry,) = build_kernels([source], cache=KernelCache(tmp_path), workers=1)
    assert entry.resources.spills == 0
