"""Family `sample`: the next token of each row, greedy or top-k, top-p at a temperature, seeded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from dsv4c.codegen.kernel import KernelParams, NodeFacts, Refusal
from dsv4c.codegen.tiles.sample import SAMPLE

KIND = "sample"
MOST = 1 << 18  # logits that a cluster's registers hold
NAMES = ("logits", "temperature", "top_k", "top_p", "seed", "position")


@dataclass(frozen=True)
class Params(KernelParams):
    """Parameters of one kernel.

    Args:
        vocab: logits of a row.
        blocks: blocks of a cluster, which does a row.
        threads: threads of a block.
        pdl: launch while the previous kernel of the stream drains.
    """

    vocab: int
    blocks: int
    threads: int
    pdl: bool


def select(facts: NodeFacts, arch: str) -> Params | Refusal:
    """Parameters for logits, temperature, top_k, top_p, seed, position -> ids."""
    if len(facts.inputs) != len(NAMES):
        return Refusal(f"takes {len(NAMES)} inputs, not {len(facts.inputs)}")
    logits = facts.inputs[0]
    vocab = logits.dims[-1]
    if not isinstance(vocab, int) or not 0 < vocab <= MOST:
        return Refusal(f"a vocabulary of {vocab}; takes at most {MOST}")
    rows = logits.dims[0]
    kinds = (("f32", (rows, vocab)), ("f32", (rows,)), ("i32", (rows,)), ("f32", (rows,)))
    kinds = (*kinds, ("i32", (rows, 2)), ("i32", (rows,)))
    for name, value, (dtype, dims) in zip(NAMES, facts.inputs, kinds, strict=True):
        if (value.dtype, value.dims) != (dtype, dims):
            found = f"{value.dtype} {list(value.dims)}"
            return Refusal(f"{name} is {found}; takes {dtype} {list(dims)}")
    return choose(vocab, arch)


def choose(vocab: int, arch: str) -> Params:
    """Parameters with the tiles of `dsv4c.codegen.tiles` for `arch`."""
    tile = SAMPLE[arch]
    blocks = 1
    while blocks < tile.blocks and blocks * 8 * tile.threads < vocab:
        blocks *= 2
    return Params(vocab, blocks, tile.threads, tile.pdl)


def kernel_name(params: KernelParams, arch: str) -> str:
    """`sample_129280`: the vocabulary."""
    return f"{KIND}_{cast(Params, params).vocab}"


def context(params: KernelParams) -> dict[str, object]:
    """Logits per thread, bits of an index, and the constants of the weights."""
    from dsv4c.ir.ops.sample import EXP2, LOG2_E

    chosen = cast(Params, params)
    items = -(-chosen.vocab // (chosen.blocks * chosen.threads))
    bits = chosen.vocab.bit_length()
    return {"items": items, "index_bits": bits, "exp2": EXP2, "log2_e": LOG2_E}
