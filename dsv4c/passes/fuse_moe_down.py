"""Down projections of all experts of a layer and their sum become one node.

expert_linear w2, linear w2 of the shared expert -> combine      becomes      fused.moe_down
"""

from __future__ import annotations

from dataclasses import dataclass

from dsv4c.ir.graph import Graph, Node
from dsv4c.passes.base import PassResult
from dsv4c.passes.rules import Match, fuse_all, only_user, producer

KIND = "moe_down"


@dataclass(frozen=True)
class FuseMoeDown:
    """Anchored at each sum over experts."""

    name: str = "fuse_moe_down"

    def run(self, graph: Graph) -> PassResult:
        return fuse_all(graph, self.name, lambda _, node: node.op == "combine", _match)


def _match(graph: Graph, combine: Node) -> Match:
    down = producer(graph, combine.inputs[0], "expert_linear")
    shared = producer(graph, combine.inputs[1], "linear")
    only_user(graph, down.name, combine)
    only_user(graph, shared.name, combine)
    act, w2, *groups = down.inputs
    shared_act, shared_w2 = shared.inputs
    inputs = (act, *groups, shared_act, w2, shared_w2)
    return Match(KIND, (down, shared, combine), inputs, (combine.name,))
