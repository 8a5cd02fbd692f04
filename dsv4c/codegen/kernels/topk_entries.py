"""Exact top-k of the indexer's scores: which nodes the template takes, and with what."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import cast

from dsv4c.codegen.kernel import KernelParams, NodeFacts, Refusal
from dsv4c.codegen.tiles.topk_entries import TOPK_ENTRIES

KIND = "topk_entries"
PAGE = 32
MAX_K = 2048


@dataclass(frozen=True, slots=True)
class Params(KernelParams):
    """What decides the kernel's text.

    Args:
        k: how many entries, up to 2048.
        ratio: positions per entry.
    """

    k: int
    ratio: int


def select(facts: NodeFacts, arch: str) -> Params | Refusal:
    """Parameters for inputs (scores, pos, slot, block_table), output index."""
    if len(facts.inputs) != 4 or len(facts.outputs) != 1:
        return Refusal(f"{len(facts.inputs)} inputs and {len(facts.outputs)} outputs, not 4 and 1")
    if facts.inputs[0].dtype != "f32":
        return Refusal(f"scores {facts.inputs[0].dtype}, not f32")
    k, page = int(facts.attrs["k"]), facts.attrs["page"]
    if not 0 < k <= MAX_K:
        return Refusal(f"{k} entries wanted, not 1 to {MAX_K}")
    if page != PAGE:
        return Refusal(f"{page} entries per page, not {PAGE}")
    return Params(k, int(facts.attrs["ratio"]))


def kernel_name(params: KernelParams, arch: str) -> str:
    """`topk_entries_k512_r4`."""
    chosen = cast(Params, params)
    return f"{KIND}_k{chosen.k}_r{chosen.ratio}"


def context(params: KernelParams) -> dict[str, object]:
    """What the template needs beyond the parameters."""
    return {"tiles": tuple(dataclasses.astuple(tile) for tile in TOPK_ENTRIES)}
