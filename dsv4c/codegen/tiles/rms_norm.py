"""Tiles of RMSNorm."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RmsNormTile:
    """Kind rms_norm: one block per row, a vector of 8 per thread and turn.

    Args:
        most_warps: warps per block; fewer for rows that need fewer.
        pdl: overlap the launch with the end of the previous kernel.
    """

    most_warps: int
    pdl: bool


RMS_NORM: dict[str, RmsNormTile] = {
    "sm_90a": RmsNormTile(most_warps=8, pdl=True),
    "sm_100a": RmsNormTile(most_warps=8, pdl=True),
}
