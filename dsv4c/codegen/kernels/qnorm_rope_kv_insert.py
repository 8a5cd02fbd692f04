"""Family `qnorm_rope_kv_insert`: query norm + RoPE, KV norm + RoPE + encode + window insert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from dsv4c.codegen.kernel import KernelParams, NodeFacts, Refusal, ValueFacts
from dsv4c.codegen.tiles.qnorm_rope_kv_insert import QNORM_ROPE_KV_INSERT

KIND = "qnorm_rope_kv_insert"
HEAD_DIM, ROPE = 512, 64
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
    """

    heads: int
    cache: str
    page: int
    eps: float
    warps: int
    pdl: bool


def select(facts: NodeFacts, arch: str) -> Params | Refusal:
    """Parameters for q, kv, kv_norm, angles, window, window_slot -> q', (window')."""
    if len(facts.inputs) != 6:
        return Refusal(f"takes 6 inputs, not {len(facts.inputs)}")
    q, kv, kv_norm, angles, window, slot = facts.inputs
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
    return choose(heads, window.format, window.page, arch, eps=float(facts.attrs.get("eps", 1e-6)))


def choose(heads: int, cache: str, page: int, arch: str, eps: float = 1e-6) -> Params:
    """Parameters with the tiles of `dsv4c.codegen.tiles` for `arch`."""
    tile = QNORM_ROPE_KV_INSERT[arch]
    return Params(heads, cache, page, eps, warps=tile.warps, pdl=tile.pdl)


def kernel_name(params: KernelParams, arch: str) -> str:
    """`qnorm_rope_kv_insert_h64_fp8_n128`: heads, cache format, entries per page."""
    chosen = cast(Params, params)
    return f"{KIND}_h{chosen.heads}_{chosen.cache}_n{chosen.page}"


def context(params: KernelParams) -> dict[str, object]:
    """The byte size of an fp8 page: 584 per entry, rounded up to a multiple of 576."""
    page = cast(Params, params).page
    return {"page_bytes": -(-584 * page // 576) * 576}


def _mismatch(
    name: str, value: ValueFacts, dtype: str, dims: tuple[int | str, ...]
) -> Refusal | None:
    if value.dtype == dtype and value.dims == dims:
        return None
    return Refusal(f"{name} is {value.dtype} {list(value.dims)}; takes {dtype} {list(dims)}")
