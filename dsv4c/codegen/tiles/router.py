"""Tiles of the router."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RouterTile:
    """How blocks work for batches of up to `most` tokens (0: any).

    Args:
        most: largest T.
        tokens: of a block.
        parts: blocks along K, at most; they divide the chunks of K. A token's bits are the same for
            all T with the same number of parts and K warps.
        k_warps: of 16 warps, along K; the others are along the tokens.
        stages: chunks of K in flight.
    """

    most: int
    tokens: int
    parts: int
    k_warps: int
    stages: int


CHUNK = 512  # of K
# By target; those of sm_100a are not measured.
ROUTER: dict[str, tuple[RouterTile, ...]] = {
    arch: (
        RouterTile(8, 8, 8, 16, 2),
        RouterTile(64, 64, 8, 4, 2),
        RouterTile(0, 64, 1, 4, 2),
    )
    for arch in ("sm_90a", "sm_100a")
}
