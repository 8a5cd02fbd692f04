"""Tiles of sparse attention."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AttentionTile:
    """Sparse attention: which matrix instruction, and how many blocks share a token.

    Args:
        mma: `wgmma` or `mma` (mma.sync).
        splits: (most clusters, blocks of a cluster that share the rows), ascending; clusters of 16 only
            where a token has two blocks of heads.
        heads: of a block in clusters of 8 or more, ascending, while the clusters are no more.
        producer_registers, consumer_registers: per thread, of 256 threads each.
    """

    mma: str
    splits: tuple[tuple[int, int], ...]
    heads: tuple[int, ...]
    producer_registers: int
    consumer_registers: int


# Clusters of 8 fit 15 times on an H100, not 16, those of 16 at most 7 times: its parts have 16 or 18
# multiprocessors. Models of 128 heads take 1,152 rows, nine tiles: eight blocks would take two turns.
SPARSE_ATTENTION: dict[str, AttentionTile] = {
    "sm_90a": AttentionTile("wgmma", ((6, 16), (15, 8), (28, 4), (66, 2)), (16, 32, 64), 64, 192),
    "sm_100a": AttentionTile("mma", ((15, 8), (74, 2)), (16, 32, 64), 56, 200),
}
