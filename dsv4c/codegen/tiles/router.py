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
        pieces: of 512 of K that a block takes, at most (0: all of K); blocks along K divide it. A
            token's bits are the same for all T with the same pieces and K warps.
        k_warps: of 8 warps, along K; the others are along the tokens.
    """

    most: int
    rows: int
    tokens: int
    pieces: int
    k_warps: int


# Where wgmma multiplies: blocks of a cluster that share K; blocks of a launch that run at once, of an
# H100's 132 SMs in GPCs of 16 or 18 (0: any number, in turns); tokens that a block chooses for.
SPLITS = ((8, 112, 16), (4, 112, 16), (2, 132, 64), (1, 0, 64))
# Of T * E * K, up to which one launch is faster than three, if its tiles take so many tokens.
WORK = 128 * 384 * 7168
# By target; those of sm_100a are not measured.
ROUTER: dict[str, tuple[RouterTile, ...]] = {
    arch: (
        RouterTile(8, 16, 8, 4, 8),
        RouterTile(128, 16, 16, 7, 8),
        RouterTile(256, 16, 16, 0, 8),
        RouterTile(0, 64, 64, 0, 2),
    )
    for arch in ("sm_90a", "sm_100a")
}
