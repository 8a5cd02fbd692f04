from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dsv4c.codegen.build import build_kernels
from dsv4c.codegen.cache import KernelCache
from dsv4c.codegen.kernel import ARCHS, NodeFacts, Refusal, Scalar, ValueFacts
from dsv4c.codegen.kernels import step_metadata as family
from dsv4c.codegen.kernels.step_metadata import Result
from dsv4c.codegen.render import render

POS = ValueFacts("tensor", "i32", ("T",))
TABLE = ValueFacts("tensor", "i32", ("S", "P"))
OUT = ValueFacts("tensor", "f32", ("T", 64))
ANGLES = Result("rope_angles", (64, 1e4, 1.0, 0, 32.0, 1.0, 0))
LATE = Result("rope_angles", (64, 1.6e5, 16.0, 65536, 32.0, 1.0, -3))
WINDOW = (Result("window_slots", (640,)), Result("window_entries", (640, 128)))
PAGED = (Result("entry_slots", (4, 32)), Result("visible_entries", (128, 1)))


def facts(*results: Result, inputs: tuple[ValueFacts, ...] = (POS, POS, TABLE)) -> NodeFacts:
    attrs: dict[str, Scalar] = {}
    for number, one in enumerate(results):
        attrs[f"op{number}"] = one.op
        names = family.ATTRS.get(one.op, ())
        attrs |= {f"{n}{number}": v for n, v in zip(names, one.attrs, strict=True)}
    return NodeFacts(family.KIND, inputs, (OUT,) * len(results), attrs)


def test_takes_what_a_step_needs() -> None:
    results = (ANGLES, *WINDOW, LATE, *PAGED)
    params = family.select(facts(*results), "sm_90a")
    assert isinstance(params, family.Params)
    assert params.results == results
    assert family.kernel_name(params, "sm_90a") == "step_metadata_a2_w128_c4_v128"
    values = params.values()
    assert (values["op0"], values["theta3"], values["page5"]) == ("rope_angles", 1.6e5, 1)
    context = family.context(params)
    assert context["window_slots"] == ((1, 640),)
    assert context["entry_slots"] == ((4, 4, 32),)
    assert context["paged"] is True
    assert isinstance(context["rope_angles"], tuple)
    number, pairs, offset, freqs = context["rope_angles"][1]
    assert (number, pairs, offset, freqs[0]) == (3, 32, -3, 1.0)
    assert freqs[31] == pytest.approx(160000 ** (-62 / 64) / 16, rel=1e-6)


def test_windows_need_no_block_table() -> None:
    params = family.select(facts(ANGLES, *WINDOW, inputs=(POS, POS)), "sm_100a")
    assert isinstance(params, family.Params)
    assert family.context(params)["paged"] is False


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (facts(ANGLES, PAGED[0], inputs=(POS, POS)), "takes 3 inputs for these results, not 2"),
        (facts(ANGLES, inputs=(replace(POS, dtype="i64"), POS)), "takes i32 tensors, not i64"),
        (facts(replace(ANGLES, attrs=(96, *ANGLES.attrs[1:])), inputs=(POS, POS)), "of 96 dims"),
        (facts(PAGED[1], PAGED[1]), "two lists of visible entries; takes one"),
        (facts(Result("rope", ()), inputs=(POS, POS)), "result 0 is of rope; knows rope_angles"),
    ],
)
def test_refuses(given: NodeFacts, reason: str) -> None:
    refusal = family.select(given, "sm_90a")
    assert isinstance(refusal, Refusal)
    assert reason in refusal.reason


def test_rendered_text(golden: Callable[[str, str], None]) -> None:
    params = family.choose((ANGLES, *WINDOW, LATE, *PAGED), "sm_90a")
    source = render(family.KIND, params, "sm_90a")
    golden(f"kernels/{source.name}.sm_90a.py", source.text)


@pytest.mark.parametrize("arch", ARCHS)
def test_compiles(arch: str, tmp_path: Path) -> None:
    source = render(family.KIND, family.choose((ANGLES, *WINDOW), arch), arch)
    (entry,) = build_kernels([source], cache=KernelCache(tmp_path), workers=1)
    assert entry.resources.spills == 0
