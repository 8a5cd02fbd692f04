"""The graph for Model Explorer: a `GraphCollection` of its `graph_builder.py`, as plain JSON.

Layers and the parts of names are namespaces; a fused node is a namespace around its body.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

from dsv4c.ir.graph import Graph, Node
from dsv4c.report.kernels import REFERENCE
from dsv4c.report.selection import Selection


class KeyValue(TypedDict):
    key: str
    value: str


class IncomingEdge(TypedDict):
    sourceNodeId: str
    sourceNodeOutputId: str
    targetNodeInputId: str


class MetadataItem(TypedDict):
    id: str
    attrs: list[KeyValue]


class GraphNode(TypedDict):
    id: str
    label: str
    namespace: str
    attrs: list[KeyValue]
    incomingEdges: list[IncomingEdge]
    outputsMetadata: list[MetadataItem]


class ExplorerGraph(TypedDict):
    id: str
    nodes: list[GraphNode]


class GraphCollection(TypedDict):
    label: str
    graphs: list[ExplorerGraph]


def graph_collection(graph: Graph, selection: Selection, label: str) -> GraphCollection:
    """The selected nodes and the graph inputs that they read.

    Args:
        graph: at any stage.
        selection: which nodes.
        label: of the collection.
    """
    chosen = [node for node in graph.nodes if selection.takes_node(node)]
    made = {value for node in chosen for value in node.outputs}
    read = dict.fromkeys(value for node in chosen for value in node.inputs if value not in made)
    places: dict[str, tuple[str, int]] = {value: (value, 0) for value in read}
    nodes = [_input(value, graph) for value in read]
    for node in chosen:
        nodes += _nodes(node, graph, "", _namespace(node), places)
    return {"label": label, "graphs": [{"id": graph.name, "nodes": nodes}]}


def _namespace(node: Node) -> str:
    if node.origin.layer is None:
        return "model"
    parts = node.name.split(".")
    return "/".join([f"layer {node.origin.layer:02d}", *parts[1:-1]])


def _input(value: str, graph: Graph) -> GraphNode:
    type_ = str(graph.types[value])
    tensors = [_pair("tensor", name) for name in graph.sources.get(value, ())]
    return {
        "id": value,
        "label": value,
        "namespace": "inputs",
        "attrs": tensors,
        "incomingEdges": [],
        "outputsMetadata": [{"id": "0", "attrs": [_pair("type", type_)]}],
    }


def _nodes(
    node: Node, graph: Graph, prefix: str, namespace: str, places: dict[str, tuple[str, int]]
) -> Iterator[GraphNode]:
    """The node, or the parts of its body; `places` goes from values to node and output."""
    if node.body is not None:
        inner = dict(places)
        for part in node.body.nodes:
            yield from _nodes(
                part, node.body, f"{node.name}/", f"{namespace}/{node.kind} {node.name}", inner
            )
        places.update({value: inner[value] for value in node.outputs})
        return
    ident = prefix + node.name
    places.update({value: (ident, at) for at, value in enumerate(node.outputs)})
    layer = [_pair("layer", str(node.origin.layer))] if node.origin.layer is not None else []
    impl = [_pair("runs on", node.impl)] if node.impl not in ("", REFERENCE) else []
    yield {
        "id": ident,
        "label": node.kind,
        "namespace": namespace,
        "attrs": [
            *layer,
            *impl,
            *(_pair(name, str(value)) for name, value in node.attrs.items()),
            *(_pair("tensor", name) for name in node.origin.tensors),
        ],
        "incomingEdges": [
            {
                "sourceNodeId": places[value][0],
                "sourceNodeOutputId": str(places[value][1]),
                "targetNodeInputId": str(at),
            }
            for at, value in enumerate(node.inputs)
        ],
        "outputsMetadata": [
            {
                "id": str(at),
                "attrs": [_pair("name", value), _pair("type", str(graph.types[value]))],
            }
            for at, value in enumerate(node.outputs)
        ],
    }


def _pair(key: str, value: str) -> KeyValue:
    return {"key": key, "value": value}
