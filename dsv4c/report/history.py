"""The graph after each pass, as lists of shared node records: what a pass made, removed, fused.

Two stages hold the same record where a node is the same: results, operands, attributes, origin and
body. So a stage is a list of numbers, and the difference of two stages is one of sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from dsv4c.ir.graph import Attr, Graph, Node
from dsv4c.plan.manifest import Pass


class RecordView(TypedDict):
    """One node; `outputs` are pairs of name and type, `body` numbers of records."""

    kind: str
    inputs: list[str]
    outputs: list[list[str]]
    attrs: dict[str, Attr]
    layer: int | None
    tensors: list[str]
    body: list[int]


class StageView(TypedDict):
    """The graph after a pass; index 0 is the graph as built.

    `nodes` are records in execution order, None where they are those of the stage before.
    `annotated` counts nodes that are the same but for what runs them or where results lie.
    """

    index: int
    name: str
    stage: str
    modified: bool
    seconds: float
    applied: int
    refused: int
    before: int
    after: int
    annotated: int
    nodes: list[int] | None


@dataclass(slots=True)
class Records:
    """Node records without repetition, in order of first appearance."""

    views: list[RecordView] = field(default_factory=list[RecordView])
    _known: dict[object, int] = field(default_factory=dict[object, int])

    def add(self, node: Node, graph: Graph) -> int:
        """The number of a node's record."""
        body = [self.add(part, node.body) for part in node.body.nodes] if node.body else []
        outputs = [[value, str(graph.types[value])] for value in node.outputs]
        attrs = dict(node.attrs)
        key = (
            *(node.kind, node.inputs, tuple(map(tuple, outputs)), repr(attrs)),
            *(node.origin, tuple(body)),
        )
        number = self._known.setdefault(key, len(self.views))
        if number == len(self.views):
            self.views.append(
                {
                    "kind": node.kind,
                    "inputs": list(node.inputs),
                    "outputs": outputs,
                    "attrs": attrs,
                    "layer": node.origin.layer,
                    "tensors": list(node.origin.tensors),
                    "body": body,
                }
            )
        return number


def stage_views(
    model: Graph, passes: Sequence[tuple[Pass, Graph | None]]
) -> tuple[list[RecordView], list[StageView]]:
    """Records, and the stages made of them.

    Args:
        model: the graph as built.
        passes: each pass with its result, None where it changed nothing.
    """
    records, graph = Records(), model
    nodes = [records.add(node, graph) for node in graph.nodes]
    stages = [_stage(graph, None, nodes, 0)]
    for one, result in passes:
        made = nodes
        annotated = 0
        if result is not None:
            made = [records.add(node, result) for node in result.nodes]
            annotated = _annotated(graph, result)
            graph = result
        stages.append(_stage(graph, one, None if made == nodes else made, annotated))
        nodes = made
    return records.views, stages


def _annotated(before: Graph, after: Graph) -> int:
    known = {node.name: (node.impl, node.offsets) for node in before.nodes}
    return sum(
        known.get(node.name, ("", ())) != (node.impl, node.offsets)
        for node in after.nodes
        if node.name in known
    )


def _stage(graph: Graph, one: Pass | None, nodes: list[int] | None, annotated: int) -> StageView:
    count = len(graph.nodes)
    return {
        "index": one.index if one else 0,
        "name": one.name if one else "model",
        "stage": graph.stage,
        "modified": one.modified if one else True,
        "seconds": one.seconds if one else 0.0,
        "applied": one.applied if one else 0,
        "refused": one.refused if one else 0,
        "before": one.nodes_before if one else count,
        "after": one.nodes_after if one else count,
        "annotated": annotated,
        "nodes": nodes,
    }
