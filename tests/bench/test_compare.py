"""Two runs beside each other."""

from __future__ import annotations

import msgspec

from dsv4c.bench.compare import compared, step_name
from dsv4c.bench.results import Bench, Time

replace = msgspec.structs.replace


def test_ratios_of_what_both_have(run: Bench) -> None:
    first = run.steps[0]
    faster = replace(first.kernels[0], time=Time(9.0, 9.0, 9.0))
    renamed = replace(first.kernels[1], kernel="moe_gate_up_d")
    step = replace(first, kernels=[faster, renamed, first.kernels[2]])
    new = replace(run, steps=[step], peers=None, card=replace(run.card, fp8=None))
    found = {one.what: one for one in compared(run, new)}
    one = found["B = 1, 4095 tokens: linears_a"]
    assert (one.unit, one.old, one.new, one.ratio) == ("us", 12.0, 9.0, 0.75)
    assert found["B = 1, 4095 tokens: layer 2 (csa)"].ratio == 1.0
    assert found["B = 1, 4095 tokens: step"].ratio == 1.0
    added = found["B = 1, 4095 tokens: moe_gate_up_d"]
    gone = found["B = 1, 4095 tokens: moe_gate_up_b"]
    assert (added.old, added.new, added.ratio) == (None, 26.0, None)
    assert (gone.old, gone.new, gone.ratio) == (26.0, None, None)
    assert found["fp8 products"].new is None
    assert found["FlashMLA, B = 8: the peer"].old == 18.5
    ratios = [one.ratio for one in compared(run, new)]
    assert None not in ratios[:6]
    assert ratios[6:] == [None] * (len(ratios) - 6)


def test_names_of_steps(run: Bench) -> None:
    names = [step_name(step) for step in run.steps]
    assert names == ["B = 1, 4095 tokens", "B = 8, 4095 tokens", "prefill of 4096"]


def test_a_run_beside_itself(run: Bench) -> None:
    assert {one.ratio for one in compared(run, run)} == {1.0}
