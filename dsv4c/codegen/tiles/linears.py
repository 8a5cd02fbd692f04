"""Tiles of linears that share their input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class SmallTile:
    """mma.sync: how a block works for batches of up to `most` tokens (0: any, in turns of `tokens`).

    Args:
        most: largest T.
        cluster: blocks that share K.
        rows: bf16 weights of a block's tile; twice as many of 8 bits, four times as many of 4.
        tokens: of a tile.
        depth: K per pipeline stage.
        stages: of the pipeline.
        warps_m, warps_k: multiplying warps along the rows, and along K.
    """

    most: int
    cluster: int
    rows: int
    tokens: int
    depth: int
    stages: int
    warps_m: int
    warps_k: int


@dataclass(frozen=True, slots=True)
class LargeTile:
    """wgmma: how a block works for batches of up to `most` tokens (0: any).

    Args:
        most: largest T.
        rows: of weights; with 64, two warpgroups share K.
        tokens: of a tile.
        stages: of the pipeline, 64 of K each.
        buffers: of 64 tokens that a warpgroup's results pass on their way out.
        band: row tiles that are walked together.
        split: blocks of a cluster that share K.
    """

    most: int
    rows: int
    tokens: int
    stages: int
    buffers: int
    band: int
    split: int


Tile = SmallTile | LargeTile
Weights = Sequence[tuple[str, int, bool]]

# By the rows of a tile, for up to 16 tokens. Which part of K is added up where decides a row's bits:
# they are the same in all tiles with the same warps_k, and depth where a cluster shares K.
_FEW: dict[int, tuple[SmallTile, ...]] = {
    16: (SmallTile(8, 1, 16, 8, 512, 8, 1, 8), SmallTile(16, 1, 16, 16, 512, 6, 1, 8)),
    32: (SmallTile(8, 1, 32, 8, 256, 10, 2, 4), SmallTile(16, 1, 32, 16, 256, 8, 2, 4)),
    64: (SmallTile(8, 1, 64, 8, 128, 10, 4, 2), SmallTile(16, 1, 64, 16, 128, 9, 4, 2)),
}
# For up to 32 and 64.
_MORE: dict[int, tuple[SmallTile, ...]] = {
    16: (SmallTile(32, 1, 16, 32, 256, 8, 1, 4), SmallTile(64, 1, 16, 64, 256, 4, 2, 4)),
    32: (SmallTile(32, 1, 32, 32, 256, 5, 2, 4), SmallTile(64, 1, 32, 64, 256, 3, 2, 4)),
    64: (SmallTile(32, 1, 64, 32, 128, 7, 4, 2), SmallTile(64, 1, 64, 64, 128, 4, 4, 2)),
}
_MORE_BF16 = {
    16: (_MORE[16][0], SmallTile(64, 1, 16, 64, 256, 4, 1, 4)),
    32: _MORE[32],
    64: (_MORE[64][0], SmallTile(64, 1, 64, 64, 128, 4, 2, 2)),
}
_FP4: dict[int, tuple[SmallTile, ...]] = {
    8: (SmallTile(8, 1, 8, 8, 512, 10, 1, 8), SmallTile(0, 1, 16, 16, 512, 5, 1, 8)),
    16: (SmallTile(8, 1, 16, 8, 512, 7, 1, 8), SmallTile(0, 1, 16, 16, 512, 5, 1, 8)),
    64: (
        SmallTile(8, 1, 64, 8, 256, 4, 4, 4),
        SmallTile(16, 1, 32, 16, 256, 7, 2, 4),
        SmallTile(0, 1, 32, 32, 256, 4, 2, 4),
    ),
}


def linears_tiles(arch: str, depth: int, weights: Weights) -> tuple[Tile, ...]:
    """Tiles in ascending order of `most`, the last for any T.

    Args:
        arch: the target.
        depth: K.
        weights: format, rows and whether results are f32, of each.
    """
    small = _small(depth, weights)
    large = _large(depth, weights) if arch == "sm_90a" else ()
    return (*small[:-1], replace(small[-1], most=64 if large else 0), *large)


def _small(depth: int, weights: Weights) -> tuple[SmallTile, ...]:
    """mma.sync: up to 64 tokens. There should be more tiles than blocks, but no tiny ones."""
    fp4 = [form.endswith("fp4") for form, _, _ in weights]
    if any(fp4):
        narrow = 8 if all(fp4) and _count(weights, 16) < 120 else 16
        return _FP4[64 if _count(weights, 64) >= 120 else narrow]
    rows = [rows for rows in (64, 32) if rows * depth <= 1 << 17 and _count(weights, rows) >= 250]
    few = _FEW[rows[0] if rows else 16]
    rows = [rows for rows in (64, 32) if _count(weights, rows) >= 100]
    more = _MORE_BF16 if any(form == "bf16" for form, _, _ in weights) else _MORE
    return (*few, *more[rows[0] if rows else 16])


def _count(weights: Weights, rows: int) -> int:
    """Tiles of `rows` bf16 rows, more of smaller weights."""
    each = {"bf16": 1, "fp8_128": 2, "fp8_128_f32": 2, "mxfp4": 4, "nvfp4": 4}
    return sum(-(-count // (rows * each[form])) for form, count, _ in weights)


def _large(depth: int, weights: Weights) -> tuple[LargeTile, ...]:
    """Tiles of more than 64 tokens, if wgmma's kernel takes the weights."""
    for form, rows, _ in weights:
        if form == "fp8_128_f32" or depth % 128 or (form == "fp8_128" and rows % 128):
            return ()
    plain = any(form == "bf16" for form, _, _ in weights)
    tiles = sum(-(-rows // 128) for _, rows, _ in weights)
    short, long = (6, 4) if plain else (8, 5)
    found: list[LargeTile] = []
    shared = depth % 1024 == 0 and depth >= 2048
    if shared and sum(-(-rows // 64) for _, rows, _ in weights) <= 66:
        found.append(LargeTile(128, 64, 128, 8, 2, 16, 2))
    # Clusters of two share K while that leaves a block an SM.
    most = 66 // tiles * 128
    if shared and most > (128 if found else 0):
        found.append(LargeTile(most, 128, 128, short, 2, 16, 2))
    most = max(256, 132 // tiles * 128)
    if not found or most > found[-1].most:
        found.append(LargeTile(most, 128, 128, short, 2, 16, 1))
    found.append(LargeTile(0, 128, 256, long, 2 if plain else 1, 16, 1))
    return tuple(found)
