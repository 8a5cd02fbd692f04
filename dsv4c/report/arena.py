"""The arena over time: which value lies in which buffer, from which node to which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from dsv4c.ir.graph import Graph, view_roots
from dsv4c.ir.types import TensorType


class IntervalView(TypedDict):
    """`begin` and `end` are places in the schedule, both included."""

    value: str
    buffer: int
    begin: int
    end: int
    bytes: int


class ArenaView(TypedDict):
    """`live` is the sum of the bytes of the live values at each place of the schedule."""

    buffers: list[int]
    intervals: list[IntervalView]
    live: list[int]
    peak: int


def arena_view(graph: Graph, sizes: list[int], env: Mapping[str, int]) -> ArenaView:
    """Liveness of the tensors of a planned graph; a view shares its operand's place.

    Args:
        graph: at stage `planned`.
        sizes: bytes of each buffer.
        env: the largest step, which the sizes were computed for.
    """
    root = view_roots(graph)
    last = {root[value]: i for i, node in enumerate(graph.nodes) for value in node.inputs}
    last.update(dict.fromkeys((root[value] for value in graph.outputs), len(graph.nodes) - 1))
    intervals: list[IntervalView] = []
    live = [0] * len(graph.nodes)
    for begin, node in enumerate(graph.nodes):
        for value, buffer in zip(node.outputs, node.buffers, strict=True):
            type_ = graph.types[value]
            if buffer < 0 or root[value] != value or not isinstance(type_, TensorType):
                continue
            size, end = type_.nbytes(env), last.get(value, begin)
            intervals.append(
                {"value": value, "buffer": buffer, "begin": begin, "end": end, "bytes": size}
            )
            for at in range(begin, end + 1):
                live[at] += size
    return {"buffers": sizes, "intervals": intervals, "live": live, "peak": max(live, default=0)}
