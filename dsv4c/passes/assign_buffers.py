"""The arena: every tensor result and scratch gets a place in one piece of memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dsv4c.ir.graph import Graph, Node, view_roots
from dsv4c.ir.lifetimes import Stay, aligned, stays
from dsv4c.passes.base import PassResult, at_stage

NOWHERE = -1
"""Offset of states and of views of graph inputs, which lie outside of the arena."""


@dataclass(frozen=True)
class AssignBuffers:
    """Best fit by offset over lifetimes: large values first, each into the tightest gap.

    A gap is what those that are there at the same time leave free. Smaller steps use the same offsets.

    Attributes:
        env: the largest step, which sizes are computed for.
    """

    env: Mapping[str, int] = field(default_factory=dict[str, int])
    name: str = "assign_buffers"

    def run(self, graph: Graph) -> PassResult:
        places = {(one.node, one.number): at for one, at in _placed(graph, self.env)}
        root = view_roots(graph)
        held: dict[str, int] = dict.fromkeys(graph.inputs, NOWHERE)
        nodes: list[Node] = []
        for node in graph.nodes:
            for number, value in enumerate(node.outputs):
                held[value] = places.get((node.name, number), NOWHERE)
                if root[value] != value:
                    held[value] = held[root[value]]
            offsets = [held[value] for value in node.outputs]
            zeroed = 0
            for number, scratch in enumerate(node.scratch, len(node.outputs)):
                if scratch.zeroed:
                    offsets.append(zeroed)
                    zeroed += aligned(scratch.type.nbytes(self.env))
                else:
                    offsets.append(places[node.name, number])
            nodes.append(replace(node, offsets=tuple(offsets)))
        planned = replace(at_stage(graph.with_nodes(nodes), "planned"), step=dict(self.env))
        return PassResult(planned, planned != graph)


def _placed(graph: Graph, env: Mapping[str, int]) -> list[tuple[Stay, int]]:
    """Offsets, largest values first, of equal ones the earlier first."""
    sized = [(one, aligned(one.type.nbytes(env))) for one in stays(graph)]
    sized.sort(key=lambda pair: (-pair[1], pair[0].first, pair[0].number))
    present: list[dict[int, tuple[int, int]]] = [{} for _ in graph.nodes]
    found: list[tuple[Stay, int]] = []
    for key, (stay, size) in enumerate(sized):
        span = present[stay.first : stay.last + 1]
        taken = {known: place for here in span for known, place in here.items()}
        offset = _best_fit(sorted(taken.values()), size)
        for here in span:
            here[key] = (offset, offset + size)
        found.append((stay, offset))
    return found


def _best_fit(taken: list[tuple[int, int]], size: int) -> int:
    """Start of the tightest gap between taken ranges that is large enough, else their end."""
    best, tightest, end = -1, -1, 0
    for begin, stop in taken:
        gap = begin - end
        if gap >= size and (best < 0 or gap < tightest):
            best, tightest = end, gap
        end = max(end, stop)
    return best if best >= 0 else end
