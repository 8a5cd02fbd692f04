"""Tile and pipeline choices, as data: one table per kind, looked up by the family's `select`.

Each entry says what it was chosen on; figures are in `docs/perf/`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InsertTile:
    """Kind qnorm_rope_kv_insert: one warp per row of 512.

    Args:
        warps: warps per block.
        pdl: overlap the launch with the end of the previous kernel.
    """

    warps: int
    pdl: bool


# Of 1, 2, 4, 8 warps and 1, 2, 4 rows a warp, without overlap, with the next launch allowed at the
# start or after the loads (chosen), this was within 1 % of the fastest for every T of 1 to 8192.
QNORM_ROPE_KV_INSERT: dict[str, InsertTile] = {
    "sm_90a": InsertTile(warps=4, pdl=True),
    "sm_100a": InsertTile(warps=4, pdl=True),
}


@dataclass(frozen=True, slots=True)
class AttentionTile:
    """Sparse attention: which matrix instruction, and how many blocks share a token.

    Args:
        mma: `wgmma` or `mma` (mma.sync).
        splits: (largest T * blocks of 64 heads, blocks of a cluster that share the rows), ascending.
        producer_registers, consumer_registers: per thread, of 128 and 256 threads.
    """

    mma: str
    splits: tuple[tuple[int, int], ...]
    producer_registers: int
    consumer_registers: int


SPARSE_ATTENTION: dict[str, AttentionTile] = {
    "sm_90a": AttentionTile("wgmma", ((16, 8), (66, 2)), 88, 208),
    "sm_100a": AttentionTile("mma", ((16, 8), (74, 2)), 88, 208),
}
