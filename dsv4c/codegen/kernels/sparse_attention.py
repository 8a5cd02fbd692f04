"""Sparse attention over gathered cache rows: which nodes the template takes, and with what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from dsv4c.codegen.kernel import KernelParams, NodeFacts, Refusal, ValueFacts
from dsv4c.codegen.tiles.sparse_attention import SPARSE_ATTENTION, AttentionTile

KIND = "sparse_attention"
DIM, ROPE, WINDOW = 512, 64, 128
MAX_HEADS = 128
CACHES = ("fp8", "bf16")
SCALE = DIM**-0.5


@dataclass(frozen=True, slots=True)
class Params(KernelParams):
    """What decides the kernel's text.

    Args:
        heads: attention heads H, a multiple of 8 up to 128.
        cache: entry format of both caches, `fp8` or `bf16`.
        page: entries per page of the compressed cache; 0 when there is no compressed source.
        mma: `wgmma` (sm_90a only) or `mma` (mma.sync).
        scale: softmax scale.
    """

    heads: int
    cache: str
    page: int
    mma: str
    scale: float


def select(facts: NodeFacts, arch: str) -> Params | Refusal:
    """Parameters for inputs (q, window, window_idx[, compressed, compressed_idx], sink), output o."""
    if len(facts.inputs) not in (4, 6) or len(facts.outputs) != 1:
        return Refusal(
            f"{len(facts.inputs)} inputs and {len(facts.outputs)} outputs, not 4 or 6 and 1"
        )
    q, window, window_idx = facts.inputs[:3]
    sink = facts.inputs[-1]
    compressed = facts.inputs[3:-1]
    if q.dtype != "bf16" or facts.outputs[0].dtype != "bf16" or sink.dtype != "f32":
        return Refusal(
            f"q {q.dtype}, o {facts.outputs[0].dtype}, sink {sink.dtype}: not bf16, bf16, f32"
        )
    heads, dim = q.dims[1:]
    if dim != DIM:
        return Refusal(f"head dim {dim}, not {DIM}")
    if not isinstance(heads, int) or heads % 8 or not 0 < heads <= MAX_HEADS:
        return Refusal(f"{heads} heads, not a multiple of 8 up to {MAX_HEADS}")
    if window_idx.dims[1] != WINDOW:
        return Refusal(f"window of {window_idx.dims[1]} rows, not {WINDOW}")
    for state, pages in zip((window, *compressed[:1]), ((128,), (1, 32)), strict=False):
        if reason := _cache_reason(state, pages, window.format):
            return Refusal(reason)
    for index in (window_idx, *compressed[1:]):
        if index.dtype != "i32":
            return Refusal(f"indices of dtype {index.dtype}, not i32")
    page = compressed[0].page if compressed else 0
    assert page is not None
    assert window.format is not None
    scale = float(facts.attrs.get("scale", SCALE))
    return choose(heads, window.format, page, arch, scale)


def choose(heads: int, cache: str, page: int, arch: str, scale: float = SCALE) -> Params:
    """Parameters with the tiles of `dsv4c.codegen.tiles` for `arch`."""
    return Params(heads, cache, page, SPARSE_ATTENTION[arch].mma, scale)


def _cache_reason(state: ValueFacts, pages: tuple[int, ...], form: str | None) -> str | None:
    """Why a cache is not taken, or None."""
    if state.format not in CACHES:
        return f"cache format {state.format}, not {' or '.join(CACHES)}"
    if state.format != form:
        return f"caches of two formats, {form} and {state.format}"
    if state.page not in pages:
        return f"{state.page} entries per page, not {' or '.join(map(str, pages))}"
    if state.format == "fp8" and state.rope != ROPE:
        return f"{state.rope} rope dims, not {ROPE}"
    return None


def kernel_name(params: KernelParams, arch: str) -> str:
    """`sparse_attention_h64_w128_fp8`, with `_c32` behind it for compressed pages of 32 entries."""
    chosen = cast(Params, params)
    name = f"{KIND}_h{chosen.heads}_w{WINDOW}_{chosen.cache}"
    return f"{name}_c{chosen.page}" if chosen.page else name


def context(params: KernelParams) -> dict[str, object]:
    """What the template needs beyond the parameters."""
    chosen = cast(Params, params)
    tile = SPARSE_ATTENTION["sm_90a" if chosen.mma == "wgmma" else "sm_100a"]
    blocks = -(-chosen.heads // 64)
    return {
        "blocks": blocks,
        "window_bytes": page_bytes(WINDOW, chosen.cache),
        "page_bytes": page_bytes(chosen.page, chosen.cache),
        # without a compressed source there is one tile of rows: nothing to share
        "splits": _splits(tile, chosen.heads) if chosen.page else (),
        "producer_registers": tile.producer_registers,
        "consumer_registers": tile.consumer_registers,
    }


def _splits(tile: AttentionTile, heads: int) -> tuple[tuple[int, int, int], ...]:
    """(largest T, blocks of a cluster, heads of a block), ascending: as few heads as fit at once.

    A block of a cluster adds up the sums of two heads at least.
    """
    found: list[tuple[int, int, int]] = []
    for clusters, split in tile.splits:
        if split > 8 * -(-heads // 64):
            continue
        for part in tile.heads if split >= 8 else (64,):
            most = clusters // -(-heads // part)
            if part >= 2 * split and most > (found[-1][0] if found else 0):
                found.append((most, split, part))
    return tuple(found)


def page_bytes(entries: int, cache: str) -> int:
    """Bytes of a page: fp8 entries of 576 + 8 bytes, padded to a multiple of 576 (contract 4.2)."""
    if cache == "bf16":
        return entries * DIM * 2
    return -(-entries * 584 // 576) * 576
