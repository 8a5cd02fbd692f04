"""Family `qnorm_rope_kv_insert`: query norm + RoPE, KV norm + RoPE + encode + window insert.

With an indexer also its query: RoPE, and for an fp8 cache Hadamard and rounding to MXFP4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from dsv4c.codegen.kernel import KernelParams, NodeFacts, Refusal, ValueFacts
from dsv4c.codegen.tiles.qnorm_rope_kv_insert import QNORM_ROPE_KV_INSERT

KIND = "qnorm_rope_kv_insert"
HEAD_DIM, ROPE, INDEX_DIM = 512, 64, 128
CACHES = ("fp8", "bf16")


@dataclass(frozen=True)
class Params(KernelParams):
    """Parameters of one kernel.

    Args:
        heads: query heads.
        cache: format of the window cache, `fp8` or `bf16`.
        page: entries per page of it.
        eps: added to the mean of squares.
        warps: warps per block; a warp does one row of 512.
        pdl: launch while the previous kernel of the stream drains.
        index_heads: heads of the indexer's query, 0 without.
    """

    heads: int
    cache: str
    page: int
    eps: float
    warps: int
    pdl: bool
    index_heads: int


def select(facts: NodeFacts, arch: str) -> Params | Refusal:
    """Parameters for q, kv, kv_norm, angles, window, window_slot[, index_q] -> q'[, index_q']."""
    if len(facts.inputs) not in (6, 7):
        return Refusal(f"takes 6 or 7 inputs, not {len(facts.inputs)}")
    q, kv, kv_norm, angles, window, slot, *index = facts.inputs
    heads = q.dims[1] if len(q.dims) == 3 else "?"
    expected = (
        ("q", q, "bf16", (heads, HEAD_DIM)),
        ("kv", kv, "bf16", (HEAD_DIM,)),
        ("angles", angles, "f32", (ROPE,)),
        ("window_slot", slot, "i32", ()),
    )
    for name, value, dtype, tail in expected:
        if (found := _mismatch(name, value, dtype, (q.dims[0], *tail))) is not None:
            return found
    if not isinstance(heads, int):
        return Refusal(f"heads must be known, not {heads}")
    if (found := _mismatch("kv_norm", kv_norm, "bf16", (HEAD_DIM,))) is not None:
        return found
    if window.format not in CACHES:
        return Refusal(f"window cache is {window.format}; takes {' or '.join(CACHES)}")
    if window.page is None or window.rope not in (None, ROPE):
        return Refusal(f"window cache has page {window.page} and rope {window.rope}, not {ROPE}")
    index_heads = _index_heads(index[0], q.dims[0]) if index else 0
    if isinstance(index_heads, Refusal):
        return index_heads
    eps = float(facts.attrs.get("eps", 1e-6))
    return choose(heads, window.format, window.page, arch, index_heads, eps)


def choose(
    heads: int, cache: str, page: int, arch: str, index_heads: int = 0, eps: float = 1e-6
) -> Params:
    """Parameters with the tiles of `dsv4c.codegen.tiles` for `arch`."""
    tile = QNORM_ROPE_KV_INSERT[arch]
    return Params(heads, cache, page, eps, tile.warps, tile.pdl, index_heads)


def kernel_name(params: KernelParams, arch: str) -> str:
    """`qnorm_rope_kv_insert_h64_fp8_n128_i64`: heads, cache format, entries per page, index heads."""
    chosen = cast(Params, params)
    index = f"_i{chosen.index_heads}" if chosen.index_heads else ""
    return f"{KIND}_h{chosen.heads}_{chosen.cache}_n{chosen.page}{index}"


def context(params: KernelParams) -> dict[str, object]:
    """The byte size of an fp8 page: 584 per entry, rounded up to a multiple of 576; 128^-0.5."""
    page = cast(Params, params).page
    return {"page_bytes": -(-584 * page // 576) * 576, "hadamard_scale": INDEX_DIM**-0.5}


def _index_heads(index: ValueFacts, tokens: int | str) -> int | Refusal:
    """Heads of the indexer's query; a warp does four."""
    heads = index.dims[1] if len(index.dims) == 3 else "?"
    if (found := _mismatch("index_q", index, "bf16", (tokens, heads, INDEX_DIM))) is not None:
        return found
    if not isinstance(heads, int) or heads % 4:
        return Refusal(f"heads of the indexer must be a multiple of 4, not {heads}")
    return heads


def _mismatch(
    name: str, value: ValueFacts, dtype: str, dims: tuple[int | str, ...]
) -> Refusal | None:
    if value.dtype == dtype and value.dims == dims:
        return None
    return Refusal(f"{name} is {value.dtype} {list(value.dims)}; takes {dtype} {list(dims)}")
