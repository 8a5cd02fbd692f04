"""Dead code: nodes none of whose results reach an output go, and inputs that nobody reads."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dsv4c.ir.graph import Graph, Node
from dsv4c.ir.types import TensorType
from dsv4c.passes.base import PassResult, Remark


@dataclass(frozen=True)
class DeadCode:
    """States stay alive through the graph's outputs; step inputs stay in the signature."""

    name: str = "dead_code"

    def run(self, graph: Graph) -> PassResult:
        needed = set(graph.outputs)
        kept: list[Node] = []
        remarks: list[Remark] = []
        for node in reversed(graph.nodes):
            if needed.isdisjoint(node.outputs):
                text = f"{node.kind} reaches no output"
                remarks.append(Remark("remove_dead", "applied", node.name, node.origin.layer, text))
                continue
            needed.update(node.inputs)
            kept.append(node)
        inputs = tuple(
            value
            for value in graph.inputs
            if value in needed or isinstance(graph.types[value], TensorType)
        )
        if len(kept) == len(graph.nodes) and inputs == graph.inputs:
            return PassResult(graph, False)
        sources = {value: names for value, names in graph.sources.items() if value in inputs}
        graph = replace(graph, inputs=inputs, sources=sources)
        return PassResult(graph.with_nodes(reversed(kept)), True, tuple(remarks))
