"""Tiles of the experts' projections of many tokens (wgmma, sm_90a)."""

from __future__ import annotations

from dataclasses import dataclass

from dsv4c.codegen.tiles.moe import SMEM, UNIT_BYTES

# Bytes of a unit's codes; its scales are the rest.
CODE_BYTES = {"nvfp4": 1024, "mxfp4": 1024, "fp8_128": 2048, "bf16": 4096}
ROWS, GROUPS = 256, 8  # of a block's tile
MOST_EXPERTS = 384
MOST_STAGES = 10
# Bytes of shared memory beside the ring: results on their way out, rows and weights of tokens.
BESIDE = 8192 + 4096
# Tokens of an expert up to which the streaming kernels are used, on average, and of all: from there
# on both read every expert's weights, and wgmma multiplies faster.
STREAMED, FEW = 6, 64
# More launches need less scratch memory and 4 to 16 % more time.
TURNS = 1


@dataclass(frozen=True, slots=True)
class MoeLargeTile:
    """How blocks work for batches of up to `most` tokens (0: any).

    Args:
        most: largest T.
        stages: of the ring, 64 of K each.
        widths: tokens of an expert, multiplied at a time, ascending, multiples of 16.
    """

    most: int
    stages: int
    widths: tuple[int, ...]


# Tokens of an expert, on average, up to which widths are used (0: any).
_WIDTHS = ((40, (32, 64)), (0, (32, 64, 96, 112, 128)))


def turns(rows: int) -> int:
    """Launches of the down projection, each of a part of the columns: what is added up is smaller."""
    return next(n for n in (TURNS, 2, 1) if rows // ROWS % n == 0)


def streamed(experts: int, top_k: int) -> int:
    """The largest T of the streaming kernels."""
    return max(STREAMED * experts // top_k, FEW)


def moe_large_tiles(
    arch: str, experts: int, top_k: int, rows: int, forms: tuple[str, str]
) -> tuple[MoeLargeTile, ...]:
    """Tiles in ascending order of `most`, the last for any T; none where wgmma's kernel does not fit.

    A token's bits are the same in all of them.

    Args:
        arch: the target.
        experts: routed experts.
        top_k: of them for each token.
        rows: of an expert's weights, packed.
        forms: weight formats, routed and shared; without a shared expert there are no tiles.
    """
    if arch != "sm_90a" or rows % ROWS or experts > MOST_EXPERTS or "none" in forms:
        return ()
    codes = max(CODE_BYTES[form] for form in forms)
    scales = max(UNIT_BYTES[form] - CODE_BYTES[form] for form in forms)
    found: list[MoeLargeTile] = []
    for average, widths in _WIDTHS:
        stage = GROUPS * (codes + scales) + widths[-1] * 128
        tables = 4 * (len(widths) + 1) * experts
        stages = min(MOST_STAGES, (SMEM - BESIDE - tables) // stage)
        found.append(MoeLargeTile(average * experts // top_k, stages, widths))
    return tuple(found)
