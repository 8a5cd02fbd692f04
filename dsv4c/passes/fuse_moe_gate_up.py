"""Gate and up projections of all experts of a layer, with their activation, become one node.

    expert_linear w1, expert_linear w3 -> routed_swiglu
    linear w1, linear w3 -> swiglu                         of the shared expert, with the same input

becomes `fused.moe_gate_up`: the sums never exist in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from dsv4c.ir.graph import Graph, Node
from dsv4c.passes.base import PassResult
from dsv4c.passes.rules import Match, fuse_all, only_user, producer, require

KIND = "moe_gate_up"


@dataclass(frozen=True)
class FuseMoeGateUp:
    """Anchored at each activation of routed experts."""

    name: str = "fuse_moe_gate_up"

    def run(self, graph: Graph) -> PassResult:
        return fuse_all(graph, self.name, lambda _, node: node.op == "routed_swiglu", _match)


def _match(graph: Graph, routed: Node) -> Match:
    gate, up, weights = routed.inputs
    w1, w3 = (_only(graph, value, "expert_linear", routed) for value in (gate, up))
    x, _, *groups = w1.inputs
    require([w3.inputs[0], *w3.inputs[2:]] == [x, *groups], f"up of %{x} too", f"%{w3.inputs[0]}")
    shared = _shared(graph, x)
    s1, s3 = (_only(graph, value, "linear", shared) for value in shared.inputs)
    limits = [node.attrs["limit"] for node in (routed, shared)]
    require(limits[0] == limits[1], f"one limit {limits[0]}", limits[1])
    return Match(
        KIND,
        (w1, w3, routed, s1, s3, shared),
        (x, weights, *groups, *(node.inputs[1] for node in (w1, w3, s1, s3))),
        (routed.name, shared.name),
        attrs={"limit": limits[0]},
    )


def _only(graph: Graph, value: str, op: str, user: Node) -> Node:
    only_user(graph, value, user)
    return producer(graph, value, op)


def _shared(graph: Graph, x: str) -> Node:
    """The activation of the shared expert: of two linears of x. Raises Refused."""
    values = [node.name for node in graph.consumers.get(x, ()) if node.op == "linear"]
    users = [user for value in values for user in graph.consumers.get(value, ())]
    found = {
        user.name: user for user in users if user.op == "swiglu" and {*user.inputs} <= {*values}
    }
    require(len(found) == 1, f"one swiglu of linears of %{x}", f"{len(found)}")
    return next(iter(found.values()))
