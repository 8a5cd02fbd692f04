"""Measured times of kernels beside their floors, from a result of `scripts/gpu_kernels.py`."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import TypedDict

import msgspec

from dsv4c.errors import DsvError

MMA_RATES = {"sm_90a": 790e12}
"""FLOP/s that a large bf16 product reaches: 8192^3 of random data on an H100 (docs/performance.md)."""


class TimingView(TypedDict):
    """One case; `floor_us` is the larger of its bytes at the copy rate and its FLOPs.

    `floor` says which of the two: `memory` or `arithmetic`. `ratio` is the worst error of its gates
    over its bound,
    those aside that are not finite.
    """

    case: str
    kernel: str
    in_plan: bool
    us: float
    floor_us: float
    floor: str
    bytes: float
    flops: float
    others: dict[str, float]
    ratio: float | None
    ok: bool


class MeasuredView(TypedDict):
    device: str
    torch: str
    copy_rate: float
    mma_rate: float | None
    timings: list[TimingView]
    untimed: int


class _Gate(msgspec.Struct):
    ok: bool
    ratio: float | None = None


class _Result(msgspec.Struct):
    case: str
    kernel: str
    bytes: float = 0.0
    flops: float = 0.0
    us: float | None = None
    us_again: float | None = None
    baselines: dict[str, float] = {}
    gates: list[_Gate] = []
    error: str | None = None


class _Run(msgspec.Struct):
    device: str
    torch: str
    copy_rate: float
    results: list[_Result]
    bf16_rate: float | None = None


def measured_view(path: Path, kernels: Collection[str], target: str) -> MeasuredView:
    """The timed cases of a run, those of the plan's kernels first.

    Args:
        path: a `gpu_kernels.json`.
        kernels: names of the plan's kernels.
        target: of the plan; arithmetic has a floor where the run measured the rate of its GPU, or
            it is known.

    Raises:
        DsvError: DSV101 if the file is no such result.
    """
    try:
        # Python's own decoder: the script writes NaN and Infinity for what has no ratio.
        run = msgspec.convert(json.loads(path.read_bytes()), type=_Run)
        for name, value in (("copy_rate", run.copy_rate), ("bf16_rate", run.bf16_rate)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} {value}")
        for one in run.results:
            if not all(map(math.isfinite, (one.bytes, one.flops, _time(one)))):
                raise ValueError(f"bytes, flops or us of {one.case}")
    except (OSError, ValueError) as error:
        raise DsvError(
            "DSV101",
            "the bench result cannot be read",
            where=str(path),
            expected="the JSON that scripts/gpu_kernels.py writes",
            found=str(error),
        ) from error
    rate = run.bf16_rate or MMA_RATES.get(target)
    timed = [_timing(one, run.copy_rate, rate, kernels) for one in run.results if _time(one)]
    timed.sort(key=lambda one: (not one["in_plan"], one["kernel"]))
    return {
        "device": run.device,
        "torch": run.torch,
        "copy_rate": run.copy_rate,
        "mma_rate": rate,
        "timings": timed,
        "untimed": len(run.results) - len(timed),
    }


def _time(one: _Result) -> float:
    return min((us for us in (one.us, one.us_again) if us), default=0.0)


def _timing(
    one: _Result, copy_rate: float, mma_rate: float | None, kernels: Collection[str]
) -> TimingView:
    memory = 1e6 * one.bytes / copy_rate
    arithmetic = 1e6 * one.flops / mma_rate if mma_rate else 0.0
    ratios = [gate.ratio for gate in one.gates if gate.ratio and math.isfinite(gate.ratio)]
    return {
        "case": one.case,
        "kernel": one.kernel,
        "in_plan": one.kernel in kernels,
        "us": _time(one),
        "floor_us": max(memory, arithmetic),
        "floor": "memory" if memory >= arithmetic else "arithmetic",
        "bytes": one.bytes,
        "flops": one.flops,
        "others": one.baselines,
        "ratio": max(ratios, default=None),
        "ok": one.error is None and all(gate.ok for gate in one.gates),
    }
