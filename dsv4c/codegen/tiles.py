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
