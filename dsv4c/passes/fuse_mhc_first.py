"""Embedding, its copies in every stream, and the first pre with its RMSNorm, in one kernel.

embed -> expand_streams -> mhc_mix -> mhc_coefficients -> mhc_collapse -> rms_norm

becomes `fused.mhc_first`: with all streams equal, a quarter of the mix is to be computed.
"""

from __future__ import annotations

from dataclasses import dataclass

from dsv4c.ir.graph import Graph, Node
from dsv4c.passes.base import PassResult
from dsv4c.passes.fuse_mhc_seam import is_mix_of, match_pre
from dsv4c.passes.rules import Match, chain_up, fuse_all, only_user

KIND = "mhc_first"


@dataclass(frozen=True)
class FuseMhcFirst:
    """Anchored at each mix of streams that are copies of one."""

    name: str = "fuse_mhc_first"

    def run(self, graph: Graph) -> PassResult:
        return fuse_all(
            graph, self.name, lambda g, node: is_mix_of(g, node, "expand_streams"), _match
        )


def _match(graph: Graph, mix: Node) -> Match:
    expand, embed = chain_up(graph, mix.inputs[0], ("expand_streams", "embed"))
    only_user(graph, embed.name, expand)
    pre = match_pre(graph, mix, "mhc_coefficients")
    return Match(
        KIND,
        (embed, expand, *pre.nodes),
        (*embed.inputs, *pre.weights),
        (expand.name, *pre.coefficients.outputs[1:], pre.norm.name),
        attrs=pre.attrs,
    )
