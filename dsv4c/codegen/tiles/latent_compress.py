"""Tiles of the latent's norm + compressors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CompressTile:
    """Kind latent_compress.

    Args:
        overlap: (largest T or 0 for any, tokens of a unit, blocks on a multiprocessor), ascending,
            for overlapping windows: a unit is a block.
        cluster: likewise for the other compressors: a unit is a cluster of 8 blocks, of at most 32
            tokens or a multiple of 32.
        pdl: overlap the launch with the end of the previous kernel.
    """

    overlap: tuple[tuple[int, int, int], ...]
    cluster: tuple[tuple[int, int, int], ...]
    pdl: bool


# Measured on an H100 with units of 1 to 128 tokens: a unit does its windows one after the other, and
# 20 clusters start in a microsecond. A second block per multiprocessor costs spilled registers, and
# with them 0.3 us, but hides latency where there is much to read.
_OVERLAP = ((128, 1, 1), (384, 2, 2), (2048, 4, 2), (0, 8, 2))
# 15 clusters of 8 blocks run at a time if a multiprocessor takes one block.
_CLUSTER = ((14, 1, 1), (64, 5, 1), (256, 18, 1), (0, 32, 2))
LATENT_COMPRESS: dict[str, CompressTile] = {
    "sm_90a": CompressTile(_OVERLAP, _CLUSTER, pdl=True),
    "sm_100a": CompressTile(_OVERLAP, _CLUSTER, pdl=True),
}
