"""The norm of the query latent, and a layer's compressors, in one kernel.

q_a      -> rms_norm                                                latent      <- fused.latent_compress
kv, gate -> compress_pool -> rms_norm -> rope -> insert_rows        rows', cache' <-
kv, gate -> compress_pool -> rms_norm -> rope -> [hadamard ->] insert_rows (the indexer's)

All of them read projections of the layer's input; nothing among them depends on another.
"""

from __future__ import annotations

from dataclasses import dataclass

from dsv4c.ir.graph import Graph, Node
from dsv4c.passes.base import PassResult
from dsv4c.passes.rules import Match, Refused, fuse_all, require

KIND = "latent_compress"


@dataclass(frozen=True)
class FuseLatentCompress:
    """Anchored at the widest compressor of each layer's input."""

    name: str = "fuse_latent_compress"

    def run(self, graph: Graph) -> PassResult:
        return fuse_all(graph, self.name, _is_anchor, _match)


def _is_anchor(graph: Graph, node: Node) -> bool:
    return node.op == "compress_pool" and _pools(graph, node)[0].name == node.name


def _match(graph: Graph, anchor: Node) -> Match:
    latent = _latent(graph, anchor)
    pools = _pools(graph, anchor)
    chains = [_chain(graph, pool) for pool in pools]
    shared = _step(pools[0], chains[0])
    for pool, chain in zip(pools[1:], chains[1:], strict=True):
        found = _step(pool, chain)
        require(found == shared, f"the compressors to share {shared}", found)
    eps = latent.attrs.get("eps"), *(chain[0].attrs.get("eps") for chain in chains)
    require(len(set(eps)) == 1, "one epsilon for all norms", eps)
    inputs, outputs = [*latent.inputs], [latent.name]
    for pool, chain in zip(pools, chains, strict=True):
        rows, kv, gate, ape, *_ = pool.inputs
        inputs += (rows, kv, gate, ape, chain[0].inputs[1], chain[-1].inputs[0])
        outputs += (pool.outputs[1], chain[-1].name)
    nodes = (latent, *pools, *(node for chain in chains for node in chain))
    attrs = {"eps": latent.attrs["eps"]}
    return Match(KIND, nodes, (*inputs, *shared), tuple(outputs), attrs=attrs)


def _projections(graph: Graph, pool: Node, op: str) -> list[Node]:
    """Nodes `op` whose operands are projections of the value that a compressor's kv projects."""
    kv = graph.producers.get(pool.inputs[1])
    if kv is None:
        return [pool] if op == pool.op else []
    found: dict[str, Node] = {}
    for projection in graph.consumers.get(kv.inputs[0], ()):
        for value in projection.outputs:
            users = graph.consumers.get(value, ())
            found |= {user.name: user for user in users if user.op == op}
    return list(found.values())


def _pools(graph: Graph, pool: Node) -> list[Node]:
    """The compressors of one layer's input, the widest first."""
    pools = _projections(graph, pool, "compress_pool")
    return sorted(pools, key=lambda node: (-int(str(node.attrs["width"])), node.name))


def _latent(graph: Graph, pool: Node) -> Node:
    """The norm of a projection that goes into further projections, not into RoPE as that of kv."""
    found = [
        node
        for node in _projections(graph, pool, "rms_norm")
        if all(user.op != "rope" for user in graph.consumers.get(node.name, ()))
    ]
    names = [node.name for node in found]
    require(len(found) == 1, f"one norm of a latent beside %{pool.name}", names)
    return found[0]


def _chain(graph: Graph, pool: Node) -> list[Node]:
    """Norm, RoPE, perhaps Hadamard, insert: each the only user of the one before."""
    chain: list[Node] = []
    value = pool.name
    for ops in (("rms_norm",), ("rope",), ("hadamard", "insert_rows")):
        chain.append(_only_use(graph, value, ops))
        value = chain[-1].name
    if chain[-1].op == "hadamard":
        chain.append(_only_use(graph, value, ("insert_rows",)))
    require(not chain[1].attrs.get("inverse", False), "a forward RoPE", "an inverse one")
    return chain


def _only_use(graph: Graph, value: str, ops: tuple[str, ...]) -> Node:
    """The node of one of `ops` that alone uses a value. Raises Refused."""
    users = graph.consumers.get(value, ())
    expected = f"expected %{value} to be used only by {' or '.join(ops)}"
    if value in graph.outputs:
        raise Refused(f"{expected}, the graph returns it")
    kinds = [user.op for user in users]
    if len(users) != 1 or users[0].op not in ops:
        raise Refused(f"{expected}, got {', '.join(kinds) or 'no user'}")
    return users[0]


def _step(pool: Node, chain: list[Node]) -> tuple[str, ...]:
    """What a compressor takes from the step: pos, slot, start, angles, entry_slot."""
    return (*pool.inputs[4:7], chain[1].inputs[1], chain[-1].inputs[2])
