"""Tiles of the exact top-k."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TopkTile:
    """How a row is worked on.

    Args:
        most: the largest T that takes it; 0 for any.
        split: blocks of a cluster that share a long row.
        threads: of a block.
        per_sm: blocks that a multiprocessor has registers for.
    """

    most: int
    split: int
    threads: int
    per_sm: int


TOPK_ENTRIES: tuple[TopkTile, ...] = (
    TopkTile(16, 8, 512, 2),
    TopkTile(33, 4, 512, 2),
    TopkTile(66, 2, 1024, 1),
    TopkTile(0, 1, 512, 3),
)
