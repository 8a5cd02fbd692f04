"""Two implementations timed in turns under CUDA graphs, over input sets larger than the L2."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch

from dsv4c.bench.timing import Call, seconds

S = TypeVar("S")
_REPLAYS = 11
_GRAPH_SECONDS = 2e-3
_MOST_CALLS = 400


def side_by_side(sets: Sequence[S], *sides: Callable[[S], object]) -> list[float]:
    """Microseconds per call of each side: medians over replays in the order A B B A.

    Args:
        sets: that calls rotate through; all of them are used in a replay.
        sides: what is timed, given an input set; results that they return rotate through as much
            memory as the sets.
    """
    graphs = [captured([partial(side, one) for one in sets]) for side in sides]
    times: list[list[float]] = [[] for _ in sides]
    for turn in range(2 * _REPLAYS):
        order = range(len(sides)) if turn % 2 else reversed(range(len(sides)))
        for side in order:
            graph, count = graphs[side]
            times[side].append(seconds(graph.replay) * 1e6 / count)
    return [statistics.median(one) for one in times]


def captured(calls: Sequence[Call]) -> tuple[torch.cuda.CUDAGraph, int]:
    """A graph of the calls in turn for about 2 ms, and how many it holds."""
    for call in calls:
        call()
    once = min(seconds(call) for call in calls[:3])
    count = int(min(max(_GRAPH_SECONDS / max(once, 2e-6), len(calls)), _MOST_CALLS))
    count = -(-count // len(calls)) * len(calls)
    graph = torch.cuda.CUDAGraph()
    # Results are held for one round: each set's results have memory of their own.
    held: list[object] = [None] * len(calls)
    with torch.cuda.graph(graph):
        for i in range(count):
            held[i % len(calls)] = calls[i % len(calls)]()
    graph.replay()
    return graph, count
