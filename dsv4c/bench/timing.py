"""Times on a GPU: replays of a CUDA graph whose calls rotate through input sets."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

import torch

from dsv4c.bench.results import Time

Call = Callable[[], object]

REPLAYS = 15
ROTATED = 220_000_000
"""Bytes that input sets have together: more than four times the 50 MB L2 of an H100."""
MOST_SETS = 64
_SECONDS = 3e-3
_MOST_CALLS = 400
_TRIED = 3


def set_count(moved: float) -> int:
    """How many input sets to rotate where one call moves so many bytes: at least 2."""
    return max(2, min(MOST_SETS, math.ceil(ROTATED / max(moved, 1.0))))


def time_calls(calls: Sequence[Call]) -> Time:
    """Microseconds of one of `calls`, run in turn in one CUDA graph for about 3 ms."""
    return Loop(calls).time()


def time_beside(loop: Loop, other: Loop) -> tuple[Time, Time]:
    """Microseconds of a call of each: their replays alternate, so that clocks and heat are the same."""
    replays = (loop.replay, other.replay)
    for replay in replays:
        replay()
    pairs = [[seconds(replay) for replay in replays] for _ in range(REPLAYS)]
    return (
        spread([one * 1e6 / loop.count for one, _ in pairs]),
        spread([one * 1e6 / other.count for _, one in pairs]),
    )


class Loop:
    """Calls, run in turn in one CUDA graph for about 3 ms; it keeps what they hold."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._calls = calls
        self._graph, self.count = looped(calls)

    def replay(self) -> None:
        """Run all `count` calls."""
        self._graph.replay()

    def time(self) -> Time:
        """Microseconds of one call."""
        self.replay()
        return spread([seconds(self.replay) * 1e6 / self.count for _ in range(REPLAYS)])


def captured(call: Call, keep: bool = False) -> torch.cuda.CUDAGraph:
    """A graph of what `call` launches, which runs once before.

    Args:
        call: launches work on the current stream.
        keep: whether the nodes of the graph can be looked at.
    """
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph(keep_graph=keep)
    with torch.cuda.graph(graph):
        call()
    return graph


def looped(calls: Sequence[Call]) -> tuple[torch.cuda.CUDAGraph, int]:
    """A graph of the calls in turn for about 3 ms, and how many it holds, all of them equally often.

    Results that they return stay for one round: each call's have memory of their own.
    """
    for call in calls:
        call()
    once = min(seconds(call) for call in calls[:_TRIED])
    count = int(min(max(_SECONDS / max(once, 2e-6), len(calls)), max(_MOST_CALLS, len(calls))))
    rounds = -(-count // len(calls))

    def loop() -> None:
        held: list[object] = [None] * len(calls)
        for _ in range(rounds):
            for i, call in enumerate(calls):
                held[i] = call()

    return captured(loop), rounds * len(calls)


def replay_rounds(replays: Sequence[Call], rounds: int) -> list[list[float]]:
    """Microseconds of each replay in several rounds, in each of which all run in turn."""
    found: list[list[float]] = [[] for _ in replays]
    for _ in range(rounds):
        # Work for the device while the host launches the first: else its launch is timed too.
        replays[-1]()
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in replays]
        for replay, (begin, end) in zip(replays, events, strict=True):
            begin.record()
            replay()
            end.record()
        torch.cuda.synchronize()
        for times, (begin, end) in zip(found, events, strict=True):
            times.append(begin.elapsed_time(end) * 1e3)
    return found


def spread(values: Sequence[float]) -> Time:
    """Median and quartiles of at least two values."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Time(statistics.median(values), low, high)


def seconds(call: Call) -> float:
    """Of one call on the device, by events around it."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e-3
