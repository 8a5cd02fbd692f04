"""Post of one site of hyper-connections, pre of the next one and its RMSNorm, in one kernel.

mhc_expand -> mhc_mix -> mhc_coefficients -> mhc_collapse -> rms_norm

becomes `fused.mhc_seam`: the new streams, which the next post reads, its coefficients, and the input
of attention or MoE. `Pre` is what the passes of the first and the last site share.
"""

from __future__ import annotations

from dataclasses import dataclass

from dsv4c.ir.graph import Attr, Graph, Node, Origin
from dsv4c.passes.base import PassResult
from dsv4c.passes.rules import Match, Refused, fuse_all, only_user, producer, require

KIND = "mhc_seam"


@dataclass(frozen=True)
class FuseMhcSeam:
    """Anchored at each mix of streams that a post made."""

    name: str = "fuse_mhc_seam"

    def run(self, graph: Graph) -> PassResult:
        return fuse_all(graph, self.name, lambda g, node: is_mix_of(g, node, "mhc_expand"), _match)


def _match(graph: Graph, mix: Node) -> Match:
    expand = producer(graph, mix.inputs[0], "mhc_expand")
    pre = match_pre(graph, mix, "mhc_coefficients")
    return Match(
        KIND,
        (expand, *pre.nodes),
        (*expand.inputs, *pre.weights),
        (expand.name, *pre.coefficients.outputs[1:], pre.norm.name),
        attrs=pre.attrs,
        origin=pre.origin,
    )


@dataclass(frozen=True, slots=True)
class Pre:
    """From streams to the input of a part: mix, coefficients, collapse, norm."""

    mix: Node
    coefficients: Node
    collapse: Node
    norm: Node

    @property
    def nodes(self) -> tuple[Node, ...]:
        return self.mix, self.coefficients, self.collapse, self.norm

    @property
    def weights(self) -> tuple[str, ...]:
        """fn, base, scale, norm."""
        return self.mix.inputs[1], *self.coefficients.inputs[1:3], self.norm.inputs[1]

    @property
    def attrs(self) -> dict[str, Attr]:
        """Epsilon of both norms, that of the coefficients, and the Sinkhorn rounds if there are any."""
        given = self.coefficients.attrs
        found = {"eps": self.mix.attrs["eps"], "mix_eps": given["eps"]}
        return found | ({"iters": given["iters"]} if "iters" in given else {})

    @property
    def origin(self) -> Origin:
        """The layer that the pre belongs to, whichever the streams come from."""
        return Origin().union(node.origin for node in self.nodes)


def is_mix_of(graph: Graph, node: Node, op: str) -> bool:
    """Whether a node is a mix of streams that an `op` made."""
    made = graph.producers.get(node.inputs[0]) if node.op == "mhc_mix" else None
    return made is not None and made.op == op


def match_pre(graph: Graph, mix: Node, op: str) -> Pre:
    """The pre that begins at a mix, its coefficients made by an `op`. Raises Refused."""
    coefficients = _user(graph, mix.name, op)
    only_user(graph, mix.name, coefficients)
    weights = coefficients.outputs[0]
    collapse = _user(graph, weights, "mhc_collapse")
    only_user(graph, weights, collapse)
    streams = mix.inputs[0]
    require(
        collapse.inputs[0] == streams, f"a collapse of %{streams}", f"one of %{collapse.inputs[0]}"
    )
    norm = _user(graph, collapse.name, "rms_norm")
    only_user(graph, collapse.name, norm)
    eps = mix.attrs.get("eps"), norm.attrs.get("eps")
    require(eps[0] == eps[1], "one epsilon for both norms", eps)
    return Pre(mix, coefficients, collapse, norm)


def _user(graph: Graph, value: str, op: str) -> Node:
    """The first user of a value that is an `op`. Raises Refused."""
    for node in graph.consumers.get(value, ()):
        if node.op == op:
            return node
    raise Refused(f"expected %{value} to be used by {op}, got no such user")
