"""Common subexpressions: equal pure nodes become one, for instance the RoPE angles of all layers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dsv4c.ir.graph import Attr, Graph, Node, rename_inputs
from dsv4c.ir.types import CacheType, RowsType
from dsv4c.passes.base import PassResult, Remark


@dataclass(frozen=True)
class CommonSubexpressions:
    """Keeps the first of equal nodes. Nodes that touch a state are left alone."""

    name: str = "common_subexpressions"

    def run(self, graph: Graph) -> PassResult:
        seen: dict[tuple[str, tuple[str, ...], tuple[tuple[str, Attr], ...]], Node] = {}
        renamed: dict[str, str] = {}
        nodes: list[Node] = []
        merged: dict[str, int] = {}
        for node in graph.nodes:
            new = rename_inputs(node, renamed)
            values = (*new.inputs, *new.outputs)
            pure = not any(isinstance(graph.types[value], CacheType | RowsType) for value in values)
            key = (new.op, new.inputs, tuple(sorted(new.attrs.items())))
            twin = seen.get(key)
            if new.body is None and pure and twin is not None:
                renamed.update(zip(new.outputs, twin.outputs, strict=True))
                merged[twin.name] = merged.get(twin.name, 0) + 1
                continue
            seen.setdefault(key, new)
            nodes.append(new)
        if not renamed:
            return PassResult(graph, False)
        nodes = [self._shared(node) if node.name in merged else node for node in nodes]
        outputs = tuple(renamed.get(value, value) for value in graph.outputs)
        remarks = tuple(
            Remark("merge_equal", "applied", name, None, f"serves {count + 1} uses")
            for name, count in merged.items()
        )
        return PassResult(replace(graph.with_nodes(nodes), outputs=outputs), True, remarks)

    @staticmethod
    def _shared(node: Node) -> Node:
        """A node that serves several layers belongs to none."""
        return replace(node, origin=replace(node.origin, layer=None))
