"""Tiles of the sites of hyper-connections: mhc_seam, mhc_first, mhc_head."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SiteTile:
    """How batches of up to `most` tokens (0: any) are worked on.

    Args:
        most: largest T.
        blocks: of a cluster, which share the channels; 16 is beyond what every GPU must have.
        slices: of 32 channels, of a warp.
        groups: of warps in a block, which take a tile of eight tokens each; they divide `blocks`,
            and of more than one block there are at least two a group.
        teams: most clusters in a launch: no more than run at once.
        staged: operands of a group's next tile are copied to shared memory while it works on one.
    """

    most: int
    blocks: int
    slices: int
    groups: int
    teams: int
    staged: bool = False


# Which channels are added up where decides a token's bits: they are the same in all tiles with the
# same blocks and slices. An H100 runs 7 clusters of 16 blocks at a time, or 15 of 8; the first load
# of few tokens is faster without copies.
MHC_SITE: dict[tuple[str, int], tuple[SiteTile, ...]] = {
    ("mhc_seam", 4096): (
        SiteTile(64, 16, 2, 2, 4),
        SiteTile(256, 16, 2, 2, 7),
        SiteTile(0, 16, 2, 4, 7, staged=True),
    ),
    ("mhc_seam", 7168): (SiteTile(128, 16, 2, 2, 7), SiteTile(0, 16, 2, 1, 7, staged=True)),
    ("mhc_first", 4096): (SiteTile(120, 8, 2, 1, 15), SiteTile(0, 8, 2, 2, 15)),
    ("mhc_first", 7168): (SiteTile(0, 16, 2, 2, 7),),
    ("mhc_head", 4096): (SiteTile(120, 8, 2, 1, 15), SiteTile(0, 8, 2, 2, 15)),
    ("mhc_head", 7168): (SiteTile(0, 16, 2, 2, 7),),
}
