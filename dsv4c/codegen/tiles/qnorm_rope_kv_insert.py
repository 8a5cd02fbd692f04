"""Tiles of query norm + RoPE + KV insert."""

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
