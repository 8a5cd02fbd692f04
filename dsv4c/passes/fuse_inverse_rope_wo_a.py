"""Inverse RoPE of the attention output goes into the grouped output projection.

rope(inverse) -> view -> grouped_linear      becomes      fused.inverse_rope_wo_a
"""

from __future__ import annotations

from dataclasses import dataclass

from dsv4c.ir.graph import Graph, Node
from dsv4c.passes.base import PassResult
from dsv4c.passes.rules import Match, chain_up, fuse_all, only_user, require

KIND = "inverse_rope_wo_a"


@dataclass(frozen=True)
class FuseInverseRopeWoA:
    """Anchored at each grouped linear."""

    name: str = "fuse_inverse_rope_wo_a"

    def run(self, graph: Graph) -> PassResult:
        return fuse_all(graph, self.name, lambda _, node: node.op == "grouped_linear", _match)


def _match(graph: Graph, linear: Node) -> Match:
    view, rope = chain_up(graph, linear.inputs[0], ("view", "rope"))
    require(bool(rope.attrs.get("inverse", False)), "an inverse RoPE", "a forward one")
    only_user(graph, view.name, linear)
    only_user(graph, rope.name, view)
    return Match(KIND, (rope, view, linear), (*rope.inputs, linear.inputs[1]), (linear.name,))
