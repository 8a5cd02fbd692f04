"""The last post, for the rows whose logits are wanted, with the head's collapse and RMSNorm.

mhc_expand -> take_rows -> mhc_mix -> mhc_head_coefficients -> mhc_collapse -> rms_norm

becomes `fused.mhc_head`: the streams of other rows, and any after the last layer, never exist.
"""

from __future__ import annotations

from dataclasses import dataclass

from dsv4c.ir.graph import Graph, Node
from dsv4c.passes.base import PassResult
from dsv4c.passes.fuse_mhc_seam import is_mix_of, match_pre
from dsv4c.passes.rules import Match, chain_up, fuse_all, only_user

KIND = "mhc_head"


@dataclass(frozen=True)
class FuseMhcHead:
    """Anchored at each mix of streams of some rows."""

    name: str = "fuse_mhc_head"

    def run(self, graph: Graph) -> PassResult:
        return fuse_all(graph, self.name, lambda g, node: is_mix_of(g, node, "take_rows"), _match)


def _match(graph: Graph, mix: Node) -> Match:
    take, expand = chain_up(graph, mix.inputs[0], ("take_rows", "mhc_expand"))
    only_user(graph, expand.name, take)
    pre = match_pre(graph, mix, "mhc_head_coefficients")
    return Match(
        KIND,
        (expand, take, *pre.nodes),
        (*expand.inputs, take.inputs[1], *pre.weights),
        (pre.norm.name,),
        attrs=pre.attrs,
        origin=pre.origin,
    )
