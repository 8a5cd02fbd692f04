"""Tiles of the step's metadata."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepTile:
    """Kind step_metadata: a block per token and part of the visible entries.

    Args:
        warps: warps per block.
        part: visible entries that a block lists.
        pdl: overlap the launch with the end of the previous kernel.
    """

    warps: int
    part: int
    pdl: bool


STEP_METADATA: dict[str, StepTile] = {
    "sm_90a": StepTile(warps=4, part=256, pdl=True),
    "sm_100a": StepTile(warps=4, part=256, pdl=True),
}
