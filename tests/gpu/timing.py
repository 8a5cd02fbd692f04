"""Times of cases on the device: CUDA-graph replays over input sets that do not fit in the L2."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from harness import Case, Guarded

from dsv4c.bench.results import Time
from dsv4c.bench.timing import Loop, set_count, time_calls


def kernel_loop(case: Case, kernel: Callable[..., object]) -> Loop:
    """Calls of a case's kernel."""
    assert case.bench is not None
    sets: list[list[torch.Tensor]] = []
    for seed in range(set_count(case.bench.bytes)):
        inputs = case.inputs(seed)
        outputs = [Guarded(shape, dtype, 0xFF).tensor for shape, dtype in case.outputs(inputs)]
        sets.append([*inputs, *outputs])
    call = functools.partial(case.call, kernel) if case.call else kernel
    return Loop([functools.partial(call, *given) for given in sets])


def time_baseline(case: Case, baseline: Callable[..., object]) -> Time:
    """Microseconds per call of another implementation, on the same kind of inputs."""
    assert case.bench is not None
    sets = [case.inputs(seed) for seed in range(set_count(case.bench.bytes))]
    return time_calls([functools.partial(baseline, *given) for given in sets])
