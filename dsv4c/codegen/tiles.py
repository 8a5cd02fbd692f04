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


# kind qnorm_rope_kv_insert: (largest T * (H + 1) the tile serves, tile); None = any size.
QNORM_ROPE_KV_INSERT: dict[str, tuple[tuple[int | None, RowTile], ...]] = {
    "sm_90a": ((2112, RowTile(warps=1, rows=1)), (None, RowTile(warps=4, rows=4))),
    "sm_100a": ((2112, RowTile(warps=1, rows=1)), (None, RowTile(warps=4, rows=4))),
}
