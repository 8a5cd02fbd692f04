"""The arena over time: which value lies where, from which node to which."""

from __future__ import annotations

from typing import TypedDict

from dsv4c.ir.graph import Graph
from dsv4c.ir.lifetimes import arena_size, stays


class IntervalView(TypedDict):
    """`begin` and `end` are places in the schedule, both included; `value` may be a node's scratch."""

    value: str
    layer: int | None
    offset: int
    bytes: int
    begin: int
    end: int


class ArenaView(TypedDict):
    """The arena in the step it is laid out for.

    Attributes:
        step: T tokens, R rows of logits, S sequences, P pages of each.
        bytes: of the arena.
        zeroed: of the zeroed region beside it.
        least: the most that is in use at one place of the schedule; no arena is smaller.
        live: bytes in use at each place of the schedule.
    """

    step: dict[str, int]
    bytes: int
    zeroed: int
    least: int
    intervals: list[IntervalView]
    live: list[int]


def arena_view(graph: Graph) -> ArenaView:
    """What lies in the arena of a planned graph; a view shares its operand's place."""
    intervals: list[IntervalView] = []
    live = [0] * len(graph.nodes)
    for stay in stays(graph):
        node, size = graph.nodes[stay.first], stay.type.nbytes(graph.step)
        intervals.append(
            {
                "value": stay.value,
                "layer": node.origin.layer,
                "offset": node.offsets[stay.number],
                "bytes": size,
                "begin": stay.first,
                "end": stay.last,
            }
        )
        for at in range(stay.first, stay.last + 1):
            live[at] += size
    size = arena_size(graph)
    return {
        "step": dict(graph.step),
        "bytes": size.arena,
        "zeroed": size.zeroed,
        "least": size.live,
        "intervals": intervals,
        "live": live,
    }
