"""What runs the nodes: kernels by name with their resources, and nodes left to torch."""

from __future__ import annotations

from collections import Counter
from typing import TypedDict

from dsv4c.ir.graph import Graph
from dsv4c.report.selection import Selection

REFERENCE = "reference"


class KernelView(TypedDict):
    name: str
    nodes: int
    layers: list[int]


class ReferenceView(TypedDict):
    kind: str
    nodes: int


class KernelsView(TypedDict):
    kernels: list[KernelView]
    reference: list[ReferenceView]
    reference_nodes: int


def kernels_view(graph: Graph, selection: Selection) -> KernelsView:
    """Kernels by name and the reference nodes by kind, of the selected nodes of a lowered graph."""
    nodes = [node for node in graph.nodes if selection.takes_node(node)]
    kernels: dict[str, KernelView] = {}
    for node in nodes:
        if node.impl in ("", REFERENCE):
            continue
        kernel = kernels.setdefault(node.impl, {"name": node.impl, "nodes": 0, "layers": []})
        kernel["nodes"] += 1
        if node.origin.layer is not None and node.origin.layer not in kernel["layers"]:
            kernel["layers"].append(node.origin.layer)
    left = Counter(node.kind for node in nodes if node.impl == REFERENCE)
    return {
        "kernels": list(kernels.values()),
        "reference": [{"kind": kind, "nodes": count} for kind, count in left.most_common()],
        "reference_nodes": left.total(),
    }
