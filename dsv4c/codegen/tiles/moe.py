"""Tiles of the experts' projections, routed and shared."""

from __future__ import annotations

from dataclasses import dataclass

from dsv4c.codegen.tiles import cards

# Bytes of a unit, 32 rows x 64 of K: codes and scales, as `dsv4c.codegen.packing_mma` lays them out.
UNIT_BYTES = {"nvfp4": 1024 + 128, "mxfp4": 1024 + 64, "fp8_128": 2048 + 16, "bf16": 4096}
K_WARPS = 8
SMEM = cards.SMEM - 1024
MOST_STAGES = 16
# Of a block that leaves no room for a second one: two on one multiprocessor leave another without.
ALONE = 233472 // 2 - 1024 + 1


@dataclass(frozen=True, slots=True)
class MoeTile:
    """How blocks work for batches of up to `most` tokens (0: any).

    Args:
        most: largest T.
        tokens: of an expert, multiplied at a time: 8, 16 or 32.
        groups: of 32 rows in a task; eight warps each.
        units: of 64 of K in a stage of the routed experts, a divisor of K / 64.
        shared_units: of the shared expert.
        stages: of the ring.
        held: tokens whose rows a stage has room for.
    """

    most: int
    tokens: int
    groups: int
    units: int
    shared_units: int
    stages: int
    held: int


@dataclass(frozen=True, slots=True)
class Wish:
    """What a tile should be like where the dims allow it.

    Args:
        most, tokens, groups: as in `MoeTile`.
        weights: bytes of a row group's weights in a stage, about.
        stages: of the ring, about: fewer where there is no room, more where blocks would be small.
    """

    most: int
    tokens: int
    groups: int
    weights: int
    stages: int


# By target. A token's bits are the same in all tiles: unit u of K belongs to warp u % 8 of 8.
GATE_UP: dict[str, tuple[Wish, ...]] = {
    "sm_90a": (Wish(2, 8, 1, 9216, 10), Wish(0, 16, 1, 18432, 8)),
    # Not measured.
    "sm_100a": (Wish(2, 8, 1, 9216, 10), Wish(0, 16, 1, 18432, 8)),
}
DOWN: dict[str, tuple[Wish, ...]] = {
    "sm_90a": (Wish(64, 8, 1, 18432, 4), Wish(0, 16, 1, 18432, 8)),
    # Not measured.
    "sm_100a": (Wish(2, 8, 1, 9216, 10), Wish(16, 8, 1, 18432, 8), Wish(0, 16, 1, 18432, 8)),
}
# Tokens whose sums a block of the down projection holds.
MOST_HELD = 256


def fit(wish: Wish, units: int, groups: int, forms: tuple[str, str], more: int) -> MoeTile:
    """The tile of a wish.

    Args:
        wish: what is wanted.
        units: of K.
        groups: of rows.
        forms: weight formats, routed and shared.
        more: bytes of shared memory beside ring and sums.
    """
    each = wish.groups if groups % wish.groups == 0 else 1
    routed, shared = (_units(units, wish.weights // UNIT_BYTES[form]) for form in forms)
    weights = max(routed * UNIT_BYTES[forms[0]], shared * UNIT_BYTES[forms[1]]) * each
    weights = -(-weights // 128) * 128
    # Fewer tokens at a time where they leave no room for two stages.
    for tokens in (wish.tokens, 8):
        # Rows that a stage has no room for are skipped within the first eight only.
        held = min(tokens, wish.most or tokens) if tokens == 8 else tokens
        stage = -(-(weights + held * (max(routed, shared) * 128 + 16)) // 128) * 128
        sums = 4 * K_WARPS * tokens * (32 * each + 4)
        fewest = min(-(-(ALONE - sums) // stage), MOST_STAGES)
        stages = min(max(wish.stages, fewest), (SMEM - more - sums) // stage)
        if stages > 1:
            break
    return MoeTile(wish.most, tokens, each, routed, shared, stages, held)


def _units(units: int, wanted: int) -> int:
    """The largest divisor that is not above `wanted` and shares out evenly to the warps along K."""
    fair = [n for n in range(1, units + 1) if n % K_WARPS == 0 or K_WARPS % n == 0]
    return max(n for n in fair if units % n == 0 and n <= max(wanted, 1))
