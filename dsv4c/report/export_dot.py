"""The graph as Graphviz text: a cluster per layer, fused nodes and kernels marked."""

from __future__ import annotations

import json
from collections.abc import Iterator

from dsv4c.ir.graph import Graph, Node
from dsv4c.report.kernels import REFERENCE
from dsv4c.report.selection import Selection


def dot_text(graph: Graph, selection: Selection) -> str:
    """A digraph of the selected nodes; edges go along values that a node makes."""
    nodes = [node for node in graph.nodes if selection.takes_node(node)]
    layers: dict[int | None, list[Node]] = {}
    for node in nodes:
        layers.setdefault(node.origin.layer, []).append(node)
    lines = [f"digraph {_quoted(graph.name)} {{", '  node [shape=box, fontname="sans-serif"];']
    for layer, members in layers.items():
        drawn = [_node(node) for node in members]
        if layer is None:
            lines += drawn
            continue
        lines += [f"  subgraph cluster_{layer} {{", f'    label="layer {layer}";']
        lines += [*("  " + line for line in drawn), "  }"]
    return "\n".join([*lines, *_edges(nodes), "}"]) + "\n"


def _node(node: Node) -> str:
    kernel = node.impl not in ("", REFERENCE)
    style = ", style=filled, fillcolor=lightblue" if kernel else ""
    style += ", peripheries=2" if node.body is not None else ""
    label = _quoted("\n".join([node.kind, node.name, *([node.impl] if kernel else [])]))
    return f"  {_quoted(node.name)} [label={label}{style}];"


def _edges(nodes: list[Node]) -> Iterator[str]:
    maker = {value: node.name for node in nodes for value in node.outputs}
    for node in nodes:
        for value in dict.fromkeys(node.inputs):
            if value in maker:
                ends = f"{_quoted(maker[value])} -> {_quoted(node.name)}"
                yield f"  {ends} [tooltip={_quoted(value)}];"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
