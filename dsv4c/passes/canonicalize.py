"""Canonical forms: attributes spelled in full, chains of views merged, views that do nothing gone."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dsv4c.ir.graph import Graph, Node, rename_inputs
from dsv4c.ir.op import OPS, full_attrs
from dsv4c.passes.base import PassResult, Remark


@dataclass(frozen=True)
class Canonicalize:
    """One spelling for equal nodes, so that later passes compare them as they stand."""

    name: str = "canonicalize"

    def run(self, graph: Graph) -> PassResult:
        renamed: dict[str, str] = {}
        nodes: list[Node] = []
        remarks: list[Remark] = []
        made: dict[str, Node] = {}
        for node in graph.nodes:
            new = rename_inputs(node, renamed)
            attrs = node.attrs if node.body else full_attrs(OPS[node.op], node.attrs)
            if attrs != node.attrs:
                new = replace(new, attrs=attrs)
            if new.op == "view":
                source = made.get(new.inputs[0])
                if source is not None and source.op == "view":
                    new = replace(new, inputs=source.inputs)
                    remarks.append(self._remark(new, "merged with the view before it"))
                same = graph.types[new.inputs[0]] == graph.types[new.name]
                if same and new.name not in graph.outputs:
                    renamed[new.name] = new.inputs[0]
                    remarks.append(self._remark(new, "removed, it changes nothing"))
                    continue
            nodes.append(new)
            made.update(dict.fromkeys(new.outputs, new))
        modified = len(nodes) != len(graph.nodes) or any(
            new is not old for new, old in zip(nodes, graph.nodes, strict=True)
        )
        return PassResult(graph.with_nodes(nodes) if modified else graph, modified, tuple(remarks))

    def _remark(self, node: Node, text: str) -> Remark:
        return Remark("merge_views", "applied", node.name, node.origin.layer, text)
