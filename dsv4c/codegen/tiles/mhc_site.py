"""Tiles of the sites of hyper-connections: mhc_seam, mhc_first, mhc_head."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SiteTile:
    """How batches of up to `most` tokens (0: any) are worked on.

    Args:
        most: largest T.
        blocks: of a cluster, which share the channels.
        slices: of 32 channels, of a warp.
        groups: of warps in a block, which take a tile of eight tokens each.
        teams: most clusters in a launch: as many as run at once.
    """

    most: int
    blocks: int
    slices: int
    groups: int
    teams: int
    early: bool = False
    ahead: bool = False


# Which channels are added up where decides a token's bits: they are the same in all tiles with the
# same blocks and slices.
_FLASH = (SiteTile(0, 8, 2, 2, 15),)
_PRO = (SiteTile(0, 16, 2, 2, 7),)
# By target and width.
MHC_SITE: dict[tuple[str, int], tuple[SiteTile, ...]] = {
    ("sm_90a", 4096): _FLASH,
    ("sm_90a", 7168): _PRO,
    ("sm_100a", 4096): _FLASH,
    ("sm_100a", 7168): _PRO,
}
