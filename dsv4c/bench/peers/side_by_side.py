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
    (found,) = timed_rows([(row, 0, 1)], sets, *sides)
    return found


def timed_rows(
    rows: Sequence[tuple[PeerRow, int, int]], sets: Sequence[S], *sides: Callable[[S], object]
) -> list[PeerRow]:
    """Rows with the times of two sides each; none of them where results of one differ.

    Args:
        rows: with the numbers of our side and of the peer's.
        sets: as `side_by_side` takes them.
        sides: all of them are timed in turns.
    """
    if any(max(row.ratio, row.peer_ratio) > 1 for row, _, _ in rows):
        return [msgspec.structs.replace(row, note="results differ") for row, _, _ in rows]
    times = side_by_side(sets, *sides)
    return [
        msgspec.structs.replace(row, time=times[ours], peer_time=times[theirs])
        for row, ours, theirs in rows
    ]


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
