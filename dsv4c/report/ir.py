"""The graph as nodes: what each computes, where it comes from, what runs it."""

from __future__ import annotations

from typing import TypedDict

from dsv4c.ir.graph import Attr, Graph, Node
from dsv4c.ir.text import show, show_node
from dsv4c.report.selection import Selection


class ValueView(TypedDict):
    name: str
    type: str


class NodeView(TypedDict):
    name: str
    kind: str
    inputs: list[ValueView]
    outputs: list[ValueView]
    attrs: dict[str, Attr]
    layer: int | None
    tensors: list[str]
    impl: str
    body: list[str]


class IrView(TypedDict):
    """`text` is IR: the whole graph, which parses again, or the selected nodes."""

    graph: str
    stage: str
    text: str
    nodes: list[NodeView]


def ir_view(graph: Graph, selection: Selection) -> IrView:
    """The selected nodes in execution order; `body` lists the kinds inside a fused node."""
    chosen = [node for node in graph.nodes if selection.takes_node(node)]
    whole = selection.everything
    return {
        "graph": graph.name,
        "stage": graph.stage,
        "text": show(graph) if whole else "".join(show_node(one, graph) + "\n" for one in chosen),
        "nodes": [_node(node, graph) for node in chosen],
    }


def _node(node: Node, graph: Graph) -> NodeView:
    def values(names: tuple[str, ...]) -> list[ValueView]:
        return [{"name": name, "type": str(graph.types[name])} for name in names]

    return {
        "name": node.name,
        "kind": node.kind,
        "inputs": values(node.inputs),
        "outputs": values(node.outputs),
        "attrs": dict(node.attrs),
        "layer": node.origin.layer,
        "tensors": list(node.origin.tensors),
        "impl": node.impl,
        "body": [inner.kind for inner in node.body.nodes] if node.body is not None else [],
    }
