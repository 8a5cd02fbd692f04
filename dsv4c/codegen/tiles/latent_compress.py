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


LATENT_COMPRESS: dict[str, CompressTile] = {
    "sm_90a": CompressTile(((256, 1, 1), (0, 4, 1)), ((14, 1, 1), (128, 8, 1), (512, 32, 1), (0, 128, 2)), pdl=True),
    "sm_100a": CompressTile(((256, 1, 1), (0, 4, 1)), ((14, 1, 1), (128, 8, 1), (512, 32, 1), (0, 128, 2)), pdl=True),
}
