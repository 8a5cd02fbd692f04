"""Limits of sparse attention's output: rounding alone stays below them, defects do not; on the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable

import cases_sparse_attention as cases
import pytest
import torch
from cases_sparse_attention import Setup
from harness import BF16_ROUNDING, Gate, Run

SETUPS = (
    Setup(24, 64, 512),
    Setup(24, 64, 1024, "bf16", page=1),
    Setup(40, 8, 64),
    Setup(16, 64, 0),
    Setup(2, 64, 4096, page=1),
)


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "DEVICE", "cpu")


def attention(
    setup: Setup,
    inputs: list[torch.Tensor],
    rounded: Callable[[torch.Tensor], torch.Tensor] = lambda p: p.bfloat16().double(),
    summed: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = lambda p, exact: p,
    kept: slice = slice(None),
) -> torch.Tensor:
    """In float64 but for p and the output, both bf16.

    Args:
        setup: of a case.
        inputs: of it.
        rounded: p, of at most 1 -> p that is multiplied by the rows.
        summed: that and p -> what is added up.
        kept: of the rows.
    """
    v, _, e, sink = cases.scored(setup, inputs)
    exact = e[..., kept].float()
    p = rounded(exact)
    total = summed(p, exact.double()).sum(-1, keepdim=True) + sink
    return ((p @ v[:, kept]) / total.clamp_min(1e-300)).float().bfloat16()


def judged(setup: Setup, inputs: list[torch.Tensor], output: torch.Tensor) -> Gate:
    verify = cases.make_case(setup).verify
    assert verify
    (gate,) = verify(Run(inputs, {}, [output]))
    return gate


@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.name)
@pytest.mark.parametrize("seed", range(3))
def test_rounding_stays_below_the_limits(setup: Setup, seed: int) -> None:
    inputs = cases.make_case(setup).inputs(seed)
    gate = judged(setup, inputs, attention(setup, inputs))
    assert gate.ok, gate.detail


@pytest.mark.parametrize("power", [10, 12, 16])
def test_equal_scores_below_the_sink_are_all_rounded_the_same_way(power: int) -> None:
    """Every p is up to half a step of bf16 beside a power of two; the sink keeps that in the output."""
    setup = Setup(16, 64, 1024)
    inputs = cases.make_case(setup).inputs(power)
    inputs[0].zero_()
    inputs[-1].copy_(power * math.log(2) - torch.linspace(-0.95, 0.95, 64) * BF16_ROUNDING)
    gate = judged(setup, inputs, attention(setup, inputs))
    assert gate.ok, gate.detail
    assert gate.slope > 0.4 * BF16_ROUNDING


def truncated(p: torch.Tensor) -> torch.Tensor:
    return (p.view(torch.int32) & -65536).view(torch.float32).double()


DEFECTS: dict[str, Callable[[Setup, list[torch.Tensor]], torch.Tensor]] = {
    "p cut instead of rounded": lambda setup, inputs: attention(setup, inputs, truncated),
    "p summed unrounded": lambda setup, inputs: attention(setup, inputs, summed=lambda p, x: x),
    "p in FP8": lambda setup, inputs: attention(
        setup, inputs, lambda p: p.to(torch.float8_e4m3fn).double()
    ),
    "the last row left out": lambda setup, inputs: attention(setup, inputs, kept=slice(-1)),
    "everything off by 0.3 percent": lambda setup, inputs: (
        attention(setup, inputs).float() * 1.003
    ).bfloat16(),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_beyond_them(defect: str) -> None:
    setup = Setup(40, 64, 512)
    inputs = cases.make_case(setup).inputs(1)
    assert not judged(setup, inputs, DEFECTS[defect](setup, inputs)).ok
