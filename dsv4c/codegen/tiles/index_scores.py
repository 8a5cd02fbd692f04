"""Tiles of the indexer's scores."""

from __future__ import annotations

from dataclasses import dataclass

from dsv4c.codegen.tiles.cards import SMS


@dataclass(frozen=True, slots=True)
class ScoresTile:
    """One way to share the tiles of 64 entries among blocks.

    Args:
        most: the largest T that takes it; 0 for any.
        tokens: consecutive tokens of a block; those of one sequence share the decoded keys.
        warpgroups: of a block; each takes tiles of its own.
        stages: tiles that a warpgroup has on the way from global memory.
        per_sm: blocks that a multiprocessor holds at a time.
        waves: how many rounds of blocks the grid is made for, where there is work for them.
    """

    most: int
    tokens: int
    warpgroups: int
    stages: int
    per_sm: int
    waves: int


@dataclass(frozen=True, slots=True)
class ScoresTiles:
    """Of one target.

    Args:
        mma: `wgmma` (keys from registers, q from shared memory) or `mma` (mma.sync).
        sms: multiprocessors.
        mxfp4, bf16: by cache format, ascending in `most`.
    """

    mma: str
    sms: int
    mxfp4: tuple[ScoresTile, ...]
    bf16: tuple[ScoresTile, ...]


MXFP4 = (ScoresTile(256, 1, 3, 6, 1, 1), ScoresTile(0, 8, 4, 4, 1, 4))
MXFP4_MMA = (ScoresTile(256, 1, 1, 4, 4, 1), ScoresTile(0, 8, 2, 4, 1, 4))
BF16 = (ScoresTile(256, 1, 1, 2, 4, 1), ScoresTile(0, 4, 2, 2, 1, 4))

INDEX_SCORES: dict[str, ScoresTiles] = {
    "sm_90a": ScoresTiles("wgmma", SMS["sm_90a"], MXFP4, BF16),
    "sm_100a": ScoresTiles("mma", SMS["sm_100a"], MXFP4_MMA, BF16),
}
