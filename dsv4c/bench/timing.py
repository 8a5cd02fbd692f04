"""Times on a GPU: replays of a CUDA graph whose calls rotate through input sets."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

import msgspec
import torch

Call = Callable[[], object]

REPLAYS = 15
ROTATED = 220_000_000
"""Bytes that input sets have together: more than four times the 50 MB L2 of an H100."""
MOST_SETS = 64
_SECONDS = 3e-3
_MOST_CALLS = 400


class Time(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Microseconds of one call: the median of the replays, and their quartiles."""

    us: float
    low: float
    high: float

    def __sub__(self, other: Time) -> Time:
        """What one takes longer than the other; the spreads add up."""
        us = self.us - other.us
        below = math.hypot(self.us - self.low, other.high - other.us)
        return Time(us, us - below, us + math.hypot(self.high - self.us, other.us - other.low))


def set_count(moved: float) -> int:
    """How many input sets to rotate where one call moves so many bytes: at least 2."""
    return max(2, min(MOST_SETS, math.ceil(ROTATED / max(moved, 1.0))))


def time_calls(calls: Sequence[Call]) -> Time:
    """Microseconds of one of `calls`, run in turn in one CUDA graph for about 3 ms."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    once = _seconds(calls[0])
    count = int(min(max(_SECONDS / max(once, 2e-6), len(calls)), max(_MOST_CALLS, len(calls))))
    count = -(-count // len(calls)) * len(calls)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(count):
            calls[i % len(calls)]()
    return time_replays(graph.replay, count)


def time_replays(replay: Call, count: int = 1, replays: int = REPLAYS) -> Time:
    """Microseconds of one of the `count` calls that `replay` makes."""
    replay()
    return spread([_seconds(replay) * 1e6 / count for _ in range(replays)])


def spread(values: Sequence[float]) -> Time:
    """Median and quartiles of at least two values."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Time(statistics.median(values), low, high)


def _seconds(call: Call) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e-3
