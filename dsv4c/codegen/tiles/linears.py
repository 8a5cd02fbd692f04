"""Tiles of linears that share their input."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinearsTile:
    """How a block works for batches of up to `most` tokens (0: any, in turns of `tokens`).

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


_SMALL = (
    LinearsTile(8, 1, 16, 8, 512, 8, 1, 8),
    LinearsTile(16, 1, 32, 16, 256, 8, 2, 4),
    LinearsTile(32, 1, 32, 32, 256, 5, 2, 4),
    LinearsTile(0, 1, 64, 64, 128, 4, 4, 2),
)
_FP4 = (
    LinearsTile(8, 1, 16, 8, 512, 7, 1, 8),
    LinearsTile(16, 1, 32, 16, 256, 7, 2, 4),
    LinearsTile(0, 1, 32, 32, 256, 4, 2, 4),
)


def linears_tiles(arch: str, fp4: bool) -> tuple[LinearsTile, ...]:
    """Tiles in ascending order of `most`, the last for any T.

    Args:
        arch: the target.
        fp4: whether a weight has 4 bits.
    """
    return _FP4 if fp4 else _SMALL
