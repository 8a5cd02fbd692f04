"""Scores of the lightning indexer over paged keys: which nodes the template takes, and with what."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import cast

from dsv4c.codegen.kernel import KernelParams, NodeFacts, Refusal
from dsv4c.codegen.tiles.index_scores import INDEX_SCORES

KIND = "index_scores"
DIM, PAGE = 128, 32
MAX_HEADS = 64
CACHES = ("mxfp4", "bf16")
PAGE_BYTES = {"mxfp4": PAGE * (DIM // 2 + DIM // 32), "bf16": PAGE * DIM * 2}


@dataclass(frozen=True, slots=True)
class Params(KernelParams):
    """What decides the kernel's text.

    Args:
        heads: index heads, a multiple of 8 up to 64.
        cache: key format, `mxfp4` or `bf16`.
        ratio: positions per entry.
        mma: `wgmma` (sm_90a only) or `mma` (mma.sync).
        scale: of the scores.
    """

    heads: int
    cache: str
    ratio: int
    mma: str
    scale: float


def select(facts: NodeFacts, arch: str) -> Params | Refusal:
    """Parameters for inputs (q, weights, cache, pos, slot, block_table), output scores."""
    if len(facts.inputs) != 6 or len(facts.outputs) != 1:
        return Refusal(f"{len(facts.inputs)} inputs and {len(facts.outputs)} outputs, not 6 and 1")
    q, weights, cache, *_ = facts.inputs
    if q.dtype != "bf16" or weights.dtype != "f32":
        return Refusal(f"q {q.dtype}, weights {weights.dtype}: not bf16, f32")
    heads, dim = q.dims[1:]
    if dim != DIM:
        return Refusal(f"keys of {dim} dims, not {DIM}")
    if not isinstance(heads, int) or heads % 8 or not 0 < heads <= MAX_HEADS:
        return Refusal(f"{heads} heads, not a multiple of 8 up to {MAX_HEADS}")
    if cache.format not in CACHES:
        return Refusal(f"cache format {cache.format}, not {' or '.join(CACHES)}")
    if cache.page != PAGE:
        return Refusal(f"{cache.page} entries per page, not {PAGE}")
    return choose(heads, cache.format, int(facts.attrs["ratio"]), arch, float(facts.attrs["scale"]))


def choose(heads: int, cache: str, ratio: int, arch: str, scale: float | None = None) -> Params:
    """Parameters for `arch`; the scale is (dims * heads)^-0.5 by default."""
    scale = float((DIM * heads) ** -0.5) if scale is None else scale
    return Params(heads, cache, ratio, INDEX_SCORES[arch].mma, scale)


def kernel_name(params: KernelParams, arch: str) -> str:
    """`index_scores_h64_mxfp4_r4`."""
    chosen = cast(Params, params)
    return f"{KIND}_h{chosen.heads}_{chosen.cache}_r{chosen.ratio}"


def context(params: KernelParams) -> dict[str, object]:
    """What the template needs beyond the parameters."""
    chosen = cast(Params, params)
    tiles = INDEX_SCORES["sm_90a" if chosen.mma == "wgmma" else "sm_100a"]
    found = tiles.mxfp4 if chosen.cache == "mxfp4" else tiles.bf16
    return {
        "page_bytes": PAGE_BYTES[chosen.cache],
        "sms": tiles.sms,
        "tiles": tuple(dataclasses.astuple(tile) for tile in found),
    }
