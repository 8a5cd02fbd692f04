"""The gather of selected KV entries goes into the attention GEMMs.

    gather_rows (x1 or x2) -> concat -> attention_scores -> sink_softmax -> attention_values

becomes `fused.sparse_attention`: gathered and decoded rows, scores and probabilities never exist in
memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from dsv4c.ir.graph import Graph, Node
from dsv4c.ir.types import CacheType
from dsv4c.passes.base import PassResult
from dsv4c.passes.rules import Match, fuse_all, only_user, producer, require

KIND = "sparse_attention"


@dataclass(frozen=True)
class FuseGatherGemm:
    """Anchored at each weighted sum of values."""

    name: str = "fuse_gather_gemm"

    def run(self, graph: Graph) -> PassResult:
        return fuse_all(
            graph,
            self.name,
            lambda _, node: node.op == "attention_values",
            _match,
        )


def _match(graph: Graph, values: Node) -> Match:
    probs, rows = values.inputs
    softmax = producer(graph, probs, "sink_softmax")
    scores = producer(graph, softmax.inputs[0], "attention_scores")
    q, keys, index = scores.inputs
    require(keys == rows, f"keys and values to be the same rows %{rows}", f"%{keys}")
    only_user(graph, probs, values)
    only_user(graph, scores.name, softmax)
    nodes = [scores, softmax, values]
    copied: list[Node] = []
    gathers = _gathers(graph, rows, index, nodes, copied)
    for gather in gathers:
        cache = graph.types[gather.inputs[0]]
        require(isinstance(cache, CacheType), "a gather from a cache", cache)
    sources = [value for gather in gathers for value in gather.inputs]
    inputs = (q, *sources, softmax.inputs[1])
    require(len(set(inputs)) == len(inputs), "two different caches and index lists", inputs)
    attrs = {"scale": scores.attrs["scale"]}
    return Match(KIND, (*gathers, *nodes), inputs, (values.name,), tuple(copied), attrs)


def _gathers(
    graph: Graph, rows: str, index: str, nodes: list[Node], copied: list[Node]
) -> list[Node]:
    """The gathers behind `rows`; their concat joins `nodes`.

    The concat of the indices joins `copied`: layers of one kind share it.
    """
    joined = graph.producers.get(rows)
    if joined is None or joined.op != "concat":
        gather = producer(graph, rows, "gather_rows")
        require(gather.inputs[1] == index, f"the rows of %{index}", f"%{gather.inputs[1]}")
        return [gather]
    indices = producer(graph, index, "concat")
    gathers = [producer(graph, value, "gather_rows") for value in joined.inputs]
    asked = tuple(gather.inputs[1] for gather in gathers)
    require(
        asked == indices.inputs,
        f"rows and indices joined in the same order {asked}",
        indices.inputs,
    )
    nodes.append(joined)
    copied.append(indices)
    return gathers
