"""Linears with the same input become one node: their weights stream past one copy of it.

    linear(x, w1), linear(x, w2), ...      becomes      fused.linears(x, w1, w2, ...)

A linear that shares its input with no other becomes such a node too, so that there is one way.
"""

from __future__ import annotations

from dataclasses import dataclass

from dsv4c.ir.graph import Graph, Node
from dsv4c.passes.base import PassResult
from dsv4c.passes.rules import Match, fuse_all

KIND = "linears"


@dataclass(frozen=True)
class FuseLinears:
    """Anchored at the first linear of each input. It takes what other fusions left."""

    name: str = "fuse_linears"

    def run(self, graph: Graph) -> PassResult:
        return fuse_all(graph, self.name, _is_first, _match)


def _is_first(graph: Graph, node: Node) -> bool:
    return node.op == "linear" and _sharing(graph, node)[0] is node


def _match(graph: Graph, first: Node) -> Match:
    linears = _sharing(graph, first)
    inputs = (first.inputs[0], *(linear.inputs[1] for linear in linears))
    return Match(KIND, linears, inputs, tuple(linear.name for linear in linears))


def _sharing(graph: Graph, node: Node) -> tuple[Node, ...]:
    """The linears with the input of `node`, in execution order."""
    users = graph.consumers[node.inputs[0]]
    return tuple(user for user in users if user.op == "linear")
