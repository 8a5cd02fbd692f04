"""Query norm + RoPE, and KV norm + RoPE + quantise + window insert, in one kernel.

q  -> head_norm -> rope -> attention_scores                         q'      <- fused.qnorm_rope_kv_insert
kv -> rms_norm  -> rope -> insert_rows(window)                      window' <-
index_q -> rope [-> hadamard -> fake_quant] -> index_scores         index_q' <-

The last line where an indexer chooses the entries that the same scores see.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from dsv4c.ir.graph import Graph, Node
from dsv4c.ir.types import CacheType
from dsv4c.passes.base import PassResult
from dsv4c.passes.rules import Match, Refused, chain_up, fuse_all, only_user, producer, require

KIND = "qnorm_rope_kv_insert"


@dataclass(frozen=True)
class FuseQnormRopeQuant:
    """Anchored at each insert into a window ring."""

    name: str = "fuse_qnorm_rope_quant"

    def run(self, graph: Graph) -> PassResult:
        return fuse_all(graph, self.name, _is_anchor, _match)


def _is_anchor(graph: Graph, node: Node) -> bool:
    if node.op != "insert_rows":
        return False
    cache = graph.types[node.inputs[0]]
    return isinstance(cache, CacheType) and cache.ring > 0


def _match(graph: Graph, insert: Node) -> Match:
    cache, rows, slot = insert.inputs
    kv_rope = producer(graph, rows, "rope")
    kv_norm = producer(graph, kv_rope.inputs[0], "rms_norm")
    scores = _scores(graph, insert)
    q_rope = producer(graph, scores.inputs[0], "rope")
    q_norm = producer(graph, q_rope.inputs[0], "head_norm")
    for rope in (q_rope, kv_rope):
        require(not rope.attrs.get("inverse", False), "a forward RoPE", "an inverse one")
    angles = kv_rope.inputs[1]
    require(q_rope.inputs[1] == angles, f"q and kv to share %{angles}", f"%{q_rope.inputs[1]}")
    eps = q_norm.attrs.get("eps"), kv_norm.attrs.get("eps")
    require(eps[0] == eps[1], "one epsilon for both norms", eps)
    only_user(graph, q_norm.name, q_rope)
    only_user(graph, kv_norm.name, kv_rope)
    only_user(graph, kv_rope.name, insert)
    index = _index_query(graph, scores, angles)
    return Match(
        KIND,
        (q_norm, q_rope, kv_norm, kv_rope, insert, *index),
        (
            q_norm.inputs[0],
            *kv_norm.inputs,
            angles,
            cache,
            slot,
            *(one.inputs[0] for one in index[:1]),
        ),
        (q_rope.name, *(one.name for one in index[-1:]), insert.name),
        attrs={"eps": q_norm.attrs["eps"]},
    )


def _index_query(graph: Graph, scores: Node, angles: str) -> list[Node]:
    """What turns the indexer's query, in order; nothing if no indexer chose the entries."""
    node = graph.producers.get(scores.inputs[2])
    sources = node.inputs if node is not None and node.op == "concat" else scores.inputs[2:]
    chosen = [graph.producers[value] for value in sources if value in graph.producers]
    for topk in (node for node in chosen if node.op == "topk_entries"):
        ranked = producer(graph, topk.inputs[0], "index_scores")
        last = graph.producers.get(ranked.inputs[0])
        quantised = last is not None and last.op == "fake_quant"
        ops = ("fake_quant", "hadamard", "rope") if quantised else ("rope",)
        chain = chain_up(graph, ranked.inputs[0], ops)[::-1]
        rope = chain[0]
        require(not rope.attrs.get("inverse", False), "a forward RoPE", "an inverse one")
        require(
            rope.inputs[1] == angles, f"the indexer's q to share %{angles}", f"%{rope.inputs[1]}"
        )
        for node, user in pairwise((*chain, ranked)):
            only_user(graph, node.name, user)
        return chain
    return []


def _scores(graph: Graph, insert: Node) -> Node:
    """What scores a query against rows gathered from the window after this insert."""
    value = insert.name
    for op in ("gather_rows", "concat", "attention_scores"):
        users = [node for node in graph.consumers.get(value, ()) if node.op == op]
        if op == "concat" and not users:
            continue
        if not users:
            raise Refused(
                f"expected %{value} to reach attention_scores through {op}, got no such user"
            )
        if op == "attention_scores":
            return users[0]
        value = users[0].name
    raise Refused("expected attention_scores")
