"""Tiles of sampling."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SampleTile:
    """Kind sample: a cluster per row, whose threads keep its logits in registers.

    Args:
        blocks: blocks of a cluster at most; fewer for small vocabularies.
        threads: of a block.
        pdl: overlap the launch with the end of the previous kernel.
    """

    blocks: int
    threads: int
    pdl: bool


SAMPLE: dict[str, SampleTile] = {
    "sm_90a": SampleTile(blocks=8, threads=1024, pdl=True),
    "sm_100a": SampleTile(blocks=8, threads=1024, pdl=True),
}
