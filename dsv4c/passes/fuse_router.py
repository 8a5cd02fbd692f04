"""The router: logits, choice of experts and the grouping of pairs by expert become one node.

linear -> route_learned (or route_hash) -> group_tokens      becomes      fused.router
"""

from __future__ import annotations

from dataclasses import dataclass

from dsv4c.ir.graph import Graph, Node
from dsv4c.passes.base import PassResult
from dsv4c.passes.rules import Match, fuse_all, only_user, producer

KIND = "router"


@dataclass(frozen=True)
class FuseRouter:
    """Anchored at each grouping."""

    name: str = "fuse_router"

    def run(self, graph: Graph) -> PassResult:
        return fuse_all(graph, self.name, lambda _, node: node.op == "group_tokens", _match)


def _match(graph: Graph, group: Node) -> Match:
    made = graph.producers.get(group.inputs[0])
    hashed = made is not None and made.op == "route_hash"
    route = producer(graph, group.inputs[0], "route_hash" if hashed else "route_learned")
    logits, *choice = route.inputs
    linear = producer(graph, logits, "linear")
    only_user(graph, logits, route)
    return Match(
        KIND,
        (linear, route, group),
        (*linear.inputs, *choice),
        (*route.outputs, *group.outputs),
        attrs={"scale": route.attrs["scale"]},
    )
