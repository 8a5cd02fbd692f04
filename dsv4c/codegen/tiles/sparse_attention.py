"""Tiles of sparse attention."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AttentionTile:
    """Sparse attention: which matrix instruction, and how many blocks share a token.

    Args:
        mma: `wgmma` or `mma` (mma.sync).
        splits: (largest T * blocks of 64 heads, blocks of a cluster that share the rows), ascending;
            clusters of 16 only where a token has two blocks of heads.
        producer_registers, consumer_registers: per thread, of 256 threads each.
    """

    mma: str
    splits: tuple[tuple[int, int], ...]
    producer_registers: int
    consumer_registers: int


# Clusters of 8 fit 15 times on an H100, not 16, those of 16 at most 7 times: its parts have 16 or 18
# multiprocessors. Models of 128 heads take 1,152 rows, nine tiles: eight blocks would take two turns.
SPARSE_ATTENTION: dict[str, AttentionTile] = {
    "sm_90a": AttentionTile("wgmma", ((6, 16), (15, 8), (28, 4), (66, 2)), 64, 192),
    "sm_100a": AttentionTile("mma", ((15, 8), (74, 2)), 56, 200),
}
