"""Two implementations timed in turns under CUDA graphs, over input sets larger than the L2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from dsv4c.bench.results import PeerRow, Time
from dsv4c.bench.timing import looped, seconds, spread

S = TypeVar("S")
_REPLAYS = 11


def timed(row: PeerRow, sets: Sequence[S], *sides: Callable[[S], object]) -> PeerRow:
    """The row with the times of ours and the peer's side; without, where results differ."""
    if max(row.ratio, row.peer_ratio) > 1:
        return msgspec.structs.replace(row, note="results differ")
    ours, theirs = side_by_side(sets, *sides)
    return msgspec.structs.replace(row, time=ours, peer_time=theirs)


def side_by_side(sets: Sequence[S], *sides: Callable[[S], object]) -> list[Time]:
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
    return [spread(one) for one in times]
