"""Tiles of the router."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RouterTile:
    """How blocks work for batches of up to `most` tokens (0: any).

    Args:
        most: largest T; 0: only makes logits, where wgmma's kernel does not.
        rows: experts of a block.
        tokens: of a block.
        parts: blocks along K, at most; they divide K into multiples of 512. A token's bits are the same for
            all T with the same number of parts and K warps.
        k_warps: of 8 warps, along K; the others are along the tokens.
    """

    most: int
    rows: int
    tokens: int
    parts: int
    k_warps: int


# Where wgmma multiplies: blocks of a cluster that share K, and blocks of a launch that run at once, of
# an H100's 132 SMs in GPCs of 16 or 18; 0: any number, in turns.
SPLITS = ((8, 112), (4, 112), (2, 132), (1, 0))
# By target; those of sm_100a are not measured.
ROUTER: dict[str, tuple[RouterTile, ...]] = {
    arch: (
        RouterTile(8, 16, 8, 4, 8),
        RouterTile(128, 16, 16, 2, 8),
        RouterTile(256, 16, 16, 1, 8),
        RouterTile(0, 64, 64, 1, 2),
    )
    for arch in ("sm_90a", "sm_100a")
}
