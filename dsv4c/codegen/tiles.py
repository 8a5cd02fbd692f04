"""Tile and pipeline choices, as data: one table per kind, looked up by the family's `select`.

Each entry says what it was chosen on; figures are in `docs/perf/`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RowTile:
    """How rows of one warp each are spread over the chip.

    Args:
        warps: warps per block.
        rows: rows that one warp loads before it computes (bytes in flight).
    """

    warps: int
    rows: int


@dataclass(frozen=True, slots=True)
class InsertTiles:
    """Kind qnorm_rope_kv_insert: one tile while all rows fit on the chip at once, one above.

    Args:
        small_rows_total: the largest T * (heads + 1) for the small tile.
        small: spreads few rows over many blocks.
        large: more rows per warp, so that more bytes are in flight.
        pdl: overlap the launch with the end of the previous kernel.
    """

    small_rows_total: int
    small: RowTile
    large: RowTile
    pdl: bool


QNORM_ROPE_KV_INSERT: dict[str, InsertTiles] = {
    "sm_90a": InsertTiles(8448, RowTile(2, 1), RowTile(4, 2), pdl=False),
    "sm_100a": InsertTiles(8448, RowTile(2, 1), RowTile(4, 2), pdl=False),
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
