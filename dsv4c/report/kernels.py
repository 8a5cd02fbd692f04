"""What runs the nodes: kernels by name with their resources, and nodes left to torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypedDict

from dsv4c.ir.graph import Graph
from dsv4c.report.selection import Selection

if TYPE_CHECKING:
    from dsv4c.plan.manifest import Kernel

REFERENCE = "reference"


class TileView(TypedDict):
    """How batches of up to `most` tokens (0: any) are worked on, and where that is from."""

    kind: str
    most: int
    values: dict[str, int | bool | str]
    origin: str


class KernelView(TypedDict):
    """Resources are None where the kernel has not been compiled."""

    name: str
    nodes: int
    layers: list[int]
    registers: int | None
    spills: int | None
    smem: int | None
    tiles: list[TileView]


class ReferenceView(TypedDict):
    kind: str
    nodes: int


class KernelsView(TypedDict):
    """`graphs`: decode steps are captured as CUDA graphs, for every node of the plan has a kernel."""

    kernels: list[KernelView]
    reference: list[ReferenceView]
    reference_nodes: int
    graphs: bool


def kernels_view(graph: Graph, selection: Selection, compiled: Mapping[str, Kernel]) -> KernelsView:
    """Kernels by name and the reference nodes by kind, of the selected nodes of a lowered graph."""
    nodes = [node for node in graph.nodes if selection.takes_node(node)]
    layers: dict[str, list[int | None]] = {}
    for node in nodes:
        if node.impl not in ("", REFERENCE):
            layers.setdefault(node.impl, []).append(node.origin.layer)
    left = Counter(node.kind for node in nodes if node.by_reference)
    return {
        "kernels": [_kernel(name, used, compiled.get(name)) for name, used in layers.items()],
        "reference": [{"kind": kind, "nodes": count} for kind, count in left.most_common()],
        "reference_nodes": left.total(),
        "graphs": graph.stage == "planned" and not any(node.by_reference for node in graph.nodes),
    }


def tiles_view(compiled: Kernel | None) -> list[TileView]:
    """Tiles of a kernel; none where it has not been compiled, or its tiles are never measured."""
    return [
        {"kind": one.kind, "most": one.most, "values": one.values, "origin": one.origin}
        for one in (compiled.tiles if compiled else ())
    ]


def _kernel(name: str, layers: list[int | None], compiled: Kernel | None) -> KernelView:
    return {
        "name": name,
        "nodes": len(layers),
        "layers": sorted({layer for layer in layers if layer is not None}),
        "registers": compiled.registers if compiled else None,
        "spills": compiled.spills if compiled else None,
        "smem": compiled.smem if compiled else None,
        "tiles": tiles_view(compiled),
    }
