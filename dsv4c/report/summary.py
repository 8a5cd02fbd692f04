"""The short account of a plan or checkpoint: what it is, how large, what runs on what."""

from __future__ import annotations

from typing import TypedDict

from dsv4c.report.compiled import source_ir
from dsv4c.report.kernels import kernels_view
from dsv4c.report.memory import memory_view
from dsv4c.report.passes import RuleView, passes_view
from dsv4c.report.selection import Selection
from dsv4c.report.subject import Subject
from dsv4c.report.weights import FormatView, weights_view


class SummaryView(TypedDict):
    kind: str
    model: str
    target: str
    source_ir: str | None
    hand_edited: list[str]
    stage: str
    layers: int
    nodes: int
    fused_nodes: int
    kernels: int
    kernel_nodes: int
    reference_nodes: int
    parameters: int
    weight_bytes: int
    bytes_per_slot: int
    bytes_per_page: int
    page_tokens: int
    formats: list[FormatView]
    rules: list[RuleView]


def summary_view(subject: Subject, selection: Selection) -> SummaryView:
    """Counts and sums over the selected nodes, weights and states."""
    nodes = [node for node in subject.graph.nodes if selection.takes_node(node)]
    kernels = kernels_view(subject.graph, selection, subject.kernels)
    memory = memory_view(subject.graph, selection)
    formats = weights_view(subject.graph, selection)["formats"]
    return {
        "kind": subject.kind,
        "model": subject.model,
        "target": subject.target,
        "source_ir": source_ir(subject.manifest) if subject.manifest is not None else None,
        "hand_edited": [name for name, made in subject.kernels.items() if made.hand_edited],
        "stage": subject.graph.stage,
        "layers": len({node.origin.layer for node in nodes} - {None}),
        "nodes": len(nodes),
        "fused_nodes": sum(node.body is not None for node in nodes),
        "kernels": len(kernels["kernels"]),
        "kernel_nodes": sum(kernel["nodes"] for kernel in kernels["kernels"]),
        "reference_nodes": kernels["reference_nodes"],
        "parameters": sum(one["parameters"] for one in formats),
        "weight_bytes": sum(one["bytes"] for one in formats),
        "bytes_per_slot": memory["bytes_per_slot"],
        "bytes_per_page": memory["bytes_per_page"],
        "page_tokens": memory["page_tokens"],
        "formats": formats,
        "rules": passes_view(subject.events, selection)["rules"],
    }
