"""Tiles of linears that share their input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from dsv4c.codegen.tiles import cards


@dataclass(frozen=True, slots=True)
class SmallTile:
    """mma.sync: how a block works for batches of up to `most` tokens (0: any, in turns of `tokens`).

    Args:
        most: largest T.
        rows: bf16 weights of a block's tile; twice as many of 8 bits, four times as many of 4.
        tokens: of a tile.
        depth: K per pipeline stage.
        stages: of the pipeline.
        warps_m, warps_k: multiplying warps along the rows, and along K.
        beside: a block takes half an SM; the next kernel's block may lie beside it.
    """

    most: int
    rows: int
    tokens: int
    depth: int
    stages: int
    warps_m: int
    warps_k: int
    beside: bool = False


@dataclass(frozen=True, slots=True)
class LargeTile:
    """wgmma: how a block works for batches of up to `most` tokens (0: any).

    Args:
        most: largest T.
        rows: of weights; with 64, two warpgroups share K.
        tokens: of a tile.
        stages: of the tokens' pipeline, 64 of K each.
        ahead: stages of the weights' pipeline, 128 bytes of each row.
        buffers: of 64 tokens that a warpgroup's results pass on their way out.
        band: row tiles that are walked together.
        split: blocks of a cluster that share K.
    """

    most: int
    rows: int
    tokens: int
    stages: int
    ahead: int
    buffers: int
    band: int
    split: int


Tile = SmallTile | LargeTile
SMS = cards.SMS["sm_90a"]
"""That shares are evened out over, on either target."""
Weights = Sequence[tuple[str, int, bool]]

# By the rows of a tile, for up to 16 tokens. Which part of K is added up where decides a row's bits:
# they are the same in all tiles with the same warps_k.
_FEW: dict[int, tuple[SmallTile, ...]] = {
    16: (SmallTile(8, 16, 8, 512, 8, 1, 8), SmallTile(16, 16, 16, 512, 6, 1, 8)),
    32: (SmallTile(8, 32, 8, 256, 8, 2, 4), SmallTile(16, 32, 16, 256, 7, 2, 4)),
    64: (SmallTile(8, 64, 8, 128, 9, 4, 2), SmallTile(16, 64, 16, 128, 9, 4, 2)),
}
# For up to 32 and 64.
_MORE: dict[int, tuple[SmallTile, ...]] = {
    16: (SmallTile(32, 16, 32, 256, 8, 1, 4), SmallTile(64, 16, 64, 256, 4, 2, 4)),
    32: (SmallTile(32, 32, 32, 256, 5, 2, 4), SmallTile(64, 32, 64, 256, 3, 2, 4)),
    64: (SmallTile(32, 64, 32, 128, 7, 4, 2), SmallTile(64, 64, 64, 128, 4, 4, 2)),
}
_MORE_BF16 = {
    16: (_MORE[16][0], SmallTile(64, 16, 64, 256, 4, 1, 4)),
    32: _MORE[32],
    64: (_MORE[64][0], SmallTile(64, 64, 64, 128, 4, 2, 2)),
}
# 4-bit: rows of few tiles, of many; mixed with other formats.
_FP4: dict[str, tuple[SmallTile, ...]] = {
    "few": (
        SmallTile(8, 8, 8, 512, 6, 1, 8),
        SmallTile(16, 8, 16, 512, 4, 1, 8),
        SmallTile(32, 8, 32, 512, 4, 1, 8),
    ),
    "many": (
        SmallTile(8, 16, 8, 512, 4, 2, 4, True),
        SmallTile(16, 16, 16, 256, 5, 2, 4, True),
        SmallTile(32, 32, 32, 256, 5, 4, 2),
    ),
    "mixed": (
        SmallTile(8, 16, 8, 512, 7, 1, 8),
        SmallTile(16, 16, 16, 512, 5, 1, 8),
        SmallTile(32, 16, 32, 512, 3, 1, 8),
    ),
}

# 128 columns of 8 bits: a row has one piece of 128 bytes, so a TMA box may not have more: CuTe leaves
# a tensor map's mode of one element out of the coordinates, but not out of a box that has more.
_ONE_PIECE = (
    SmallTile(8, 64, 8, 128, 4, 4, 2),
    SmallTile(16, 64, 16, 128, 4, 4, 2),
    SmallTile(32, 64, 32, 128, 4, 4, 2),
    SmallTile(64, 64, 64, 128, 2, 4, 2),
)


def linears_tiles(arch: str, depth: int, weights: Weights) -> tuple[Tile, ...]:
    """Tiles in ascending order of `most`, the last for any T.

    Args:
        arch: the target.
        depth: K.
        weights: format, rows and whether results are f32, of each.
    """
    small = _small(depth, weights)
    large = _large(depth, weights) if arch == "sm_90a" else ()
    if not large:
        return (*small[:-1], replace(small[-1], most=0))
    return (*(tile for tile in small if tile.most < 64 or large[0].most > 64), *large)


def _small(depth: int, weights: Weights) -> tuple[SmallTile, ...]:
    """mma.sync: up to 64 tokens. There should be more tiles than blocks, but no tiny ones."""
    fp4 = [form.endswith("fp4") for form, _, _ in weights]
    if depth == 128 and any(form.startswith("fp8") for form, _, _ in weights):
        return _ONE_PIECE
    if any(fp4):
        return _FP4["mixed" if not all(fp4) else "many" if _count(weights, 32) >= 120 else "few"]
    rows = [rows for rows in (64, 32) if rows * depth <= 1 << 17 and _count(weights, rows) >= 250]
    few = _FEW[_even(rows, weights)]
    rows = [rows for rows in (64, 32) if _count(weights, rows) >= 100]
    more = _MORE_BF16 if any(form == "bf16" for form, _, _ in weights) else _MORE
    last = more[rows[0] if rows else 16][1]
    if more is _MORE_BF16 and last.rows == 32 and _count(weights, 32) <= SMS:
        last = replace(last, stages=4)  # a block's only tile leaves its ring to the sums
    return (*few, more[_even(rows, weights)][0], last)


def _even(rows: list[int], weights: Weights) -> int:
    """The first of these rows of a tile; the last where that leaves blocks uneven shares; else 16."""
    if not rows:
        return 16
    share = _count(weights, rows[0]) / SMS
    return rows[0] if share > 0.9 * ceil(share) else rows[-1]


def _count(weights: Weights, rows: int) -> int:
    """Tiles of `rows` bf16 rows, more of smaller weights."""
    each = {"bf16": 1, "fp8_128": 2, "fp8_128_f32": 2, "mxfp4": 4, "nvfp4": 4}
    return sum(-(-count // (rows * each[form])) for form, count, _ in weights)


def _large(depth: int, weights: Weights) -> tuple[LargeTile, ...]:
    """Tiles of more than 64 tokens, if wgmma's kernel takes the weights."""
    for form, rows, _ in weights:
        if form == "fp8_128_f32" or depth % (256 if form.endswith("fp4") else 128):
            return ()
        if form == "fp8_128" and rows % 128:
            return ()
    # Stages of tokens and of weights: in flight should be what is used together.
    fp4 = any(form.endswith("fp4") for form, _, _ in weights)
    plain = any(form == "bf16" for form, _, _ in weights)
    # 4-bit weights need room for their scales, too.
    short = (6, 5 if fp4 else 6) if plain else (8, 3 if fp4 else 4)
    long = (4, 3 if fp4 else 4, 2) if plain else (5, 2 if fp4 else 3, 1)
    tiles = sum(-(-rows // 128) for _, rows, _ in weights)
    found: list[LargeTile] = []
    shared = depth % 1024 == 0 and depth >= 2048
    pairs = shared and sum(-(-rows // 64) for _, rows, _ in weights) <= SMS // 2
    # Where this finds no tile for 64 tokens, mma.sync serves them.
    if pairs:
        found.append(LargeTile(64, 64, 64, 16, 10 if plain and not fp4 else 8, 1, 16, 2))
    elif fp4:
        found.append(LargeTile(64, 128, 64, 16, 4, 1, 16, 1))
    elif depth == 1024 and not plain:
        found.append(LargeTile(64, 64, 64, 16, 8, 1, 16, 1))  # all of 64 tokens stay
    elif depth == 1536 and not plain:
        found.append(LargeTile(64, 64, 64, 12, 10, 1, 16, 1))
    if pairs:
        found.append(LargeTile(128, 64, 128, 8, 8 if plain else 6, 2, 16, 2))
    # Clusters of two share K while that leaves a block an SM.
    most = SMS // 2 // tiles * 128
    if shared and most > (found[-1].most if found else 0):
        found.append(LargeTile(most, 128, 128, *short, 2, 16, 2))
    most = max(256, SMS // tiles * 128)
    if not found or most > found[-1].most:
        found.append(LargeTile(most, 128, 128, *short, 2, 16, 1))
    found.append(LargeTile(0, 128, 256, *long, 16, 1))
    return tuple(found)
