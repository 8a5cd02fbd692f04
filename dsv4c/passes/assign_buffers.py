"""Buffers: every tensor result gets one, and values that do not live together share them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dsv4c.ir.graph import Graph, Node, view_roots
from dsv4c.ir.types import TensorType
from dsv4c.passes.base import PassResult, at_stage

NO_BUFFER = -1


@dataclass(frozen=True)
class AssignBuffers:
    """Linear scan over liveness; a free buffer of the nearest sufficient size is taken first.

    Attributes:
        env: the largest step that sizes are computed for.
    """

    env: Mapping[str, int] = field(default_factory=dict[str, int])
    name: str = "assign_buffers"

    def run(self, graph: Graph) -> PassResult:
        root = view_roots(graph)
        last = {root[value]: i for i, node in enumerate(graph.nodes) for value in node.inputs}
        last.update(dict.fromkeys((root[value] for value in graph.outputs), len(graph.nodes)))
        sizes: list[int] = []
        free: list[int] = []
        held: dict[str, int] = {}
        nodes: list[Node] = []
        for i, node in enumerate(graph.nodes):
            buffers: list[int] = []
            for value in node.outputs:
                type_ = graph.types[value]
                if not isinstance(type_, TensorType) or root[value] in graph.inputs:
                    buffers.append(NO_BUFFER)
                    continue
                if root[value] not in held:
                    held[value] = _take(free, sizes, type_.nbytes(self.env))
                buffers.append(held[root[value]])
            nodes.append(replace(node, buffers=tuple(buffers)))
            for value in [value for value in held if last.get(value, i) <= i]:
                free.append(held.pop(value))
        planned = at_stage(graph.with_nodes(nodes), "planned")
        return PassResult(planned, planned != graph)


def _take(free: list[int], sizes: list[int], size: int) -> int:
    """The smallest free buffer that is large enough, else the largest one grown, else a new one."""
    if not free:
        sizes.append(size)
        return len(sizes) - 1
    enough = [buffer for buffer in free if sizes[buffer] >= size]
    if enough:
        chosen = min(enough, key=lambda buffer: (sizes[buffer], buffer))
    else:
        chosen = max(free, key=lambda buffer: (sizes[buffer], -buffer))
    free.remove(chosen)
    sizes[chosen] = max(sizes[chosen], size)
    return chosen


def buffer_sizes(graph: Graph, env: Mapping[str, int]) -> list[int]:
    """Bytes of each buffer of a planned graph in a step of the size `env`."""
    sizes: dict[int, int] = {}
    for node in graph.nodes:
        for value, buffer in zip(node.outputs, node.buffers, strict=True):
            type_ = graph.types[value]
            if isinstance(type_, TensorType):
                sizes[buffer] = max(sizes.get(buffer, 0), type_.nbytes(env))
    return [sizes.get(i, 0) for i in range(max(sizes, default=-1) + 1)]
