"""Two implementations timed in turns under CUDA graphs, over input sets larger than the L2."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from dsv4c.bench.timing import looped, seconds

S = TypeVar("S")
_REPLAYS = 11


def side_by_side(sets: Sequence[S], *sides: Callable[[S], object]) -> list[float]:
    """Microseconds per call of each side: medians over replays in the order A B B A.

    Args:
        sets: that calls rotate through; all of them are used in a replay.
        sides: what is timed, given an input set; results that they return rotate through as much
            memory as the sets.
    """
    graphs = [looped([partial(side, one) for one in sets]) for side in sides]
    times: list[list[float]] = [[] for _ in sides]
    for turn in range(2 * _REPLAYS):
        order = range(len(sides)) if turn % 2 else reversed(range(len(sides)))
        for side in order:
            graph, count = graphs[side]
            times[side].append(seconds(graph.replay) * 1e6 / count)
    return [statistics.median(one) for one in times]
