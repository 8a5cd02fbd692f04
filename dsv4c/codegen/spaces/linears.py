"""Tiles of linears: what fits a multiprocessor, and what may be tried instead of a tile."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from dsv4c.codegen.kernels.linears import BITS, SMS
from dsv4c.codegen.spaces import Shape, Values, closest, number
from dsv4c.codegen.tiles.cards import SMEM
from dsv4c.codegen.tiles.linears import LargeTile, SmallTile

MOST_STAGES, MOST_WARPS, FEW = 12, 16, 16
# Of a stage of 4-bit weights: scales of a unit of 32 rows x 64 of K.
SCALES = 128


def tile_type(values: Values) -> type[SmallTile] | type[LargeTile]:
    """Of mma.sync or of wgmma."""
    return SmallTile if "depth" in values else LargeTile


def legal(values: Values, shape: Shape) -> str | None:
    """Why a tile does not fit, or None."""
    if "depth" in values:
        return _small(SmallTile(most=0, **values), shape)  # pyright: ignore[reportArgumentType]
    return _large(LargeTile(most=0, **values), shape)  # pyright: ignore[reportArgumentType]


def _small(tile: SmallTile, shape: Shape) -> str | None:
    depth, bits = number(shape, "depth"), _bits(shape)
    least, widest = 16 // max(bits), 16 // min(bits)
    used, given = small_bytes(tile, shape), room(tile)
    checks = (
        (used <= given, f"needs {used} bytes of shared memory of {given}"),
        (tile.stages >= 2, f"{tile.stages} stages"),
        (tile.rows <= 64, f"{tile.rows} rows: a box has at most 256"),
        (tile.depth % (64 * tile.warps_k) == 0, f"{tile.warps_k} warps along {tile.depth} of K"),
        (tile.rows * least % (16 * tile.warps_m) == 0, f"{tile.warps_m} warps along the rows"),
        # A warp has whole row groups of packed weights.
        (widest < 4 or tile.rows * 4 % (32 * tile.warps_m) == 0, "parts of a packed row group"),
        (tile.warps_m * tile.warps_k <= MOST_WARPS, f"more than {MOST_WARPS} warps"),
        # From 64 tokens on, registers move between warpgroups (setmaxnreg): all of one must agree.
        (
            tile.tokens < 64 or tile.warps_m * tile.warps_k % 4 == 0,
            f"{tile.warps_m * tile.warps_k} multiplying warps, no whole warpgroups",
        ),
        (
            all(tile.depth * one % 1024 == 0 for one in bits if one > 4),
            "no whole boxes of 128 bytes",
        ),
        # See the tiles of 128 columns: a box may not have more pieces than a row.
        (all(tile.depth <= depth for one in bits if depth * one <= 8192), "a row of one piece"),
    )
    return next((reason for ok, reason in checks if not ok), None)


def small_bytes(tile: SmallTile, shape: Shape) -> int:
    """Of shared memory: the ring with its barriers, and sums.

    The ring of a block that has one tile becomes the sums; else those of few tokens have two buffers
    where there is room.
    """
    bits, rows = _bits(shape), shape["rows"]
    assert isinstance(rows, tuple | list)
    widest = 16 // min(bits)
    scales = tile.rows * 4 // 32 * tile.depth // 64 * SCALES if widest == 4 else 0
    stage = (tile.rows + tile.tokens) * tile.depth * 2
    sums = tile.warps_k * tile.tokens * (tile.rows * widest + 4) * 4
    tiles = sum(-(-n // (tile.rows * 16 // one)) for n, one in zip(rows, bits, strict=True))
    alone = tiles <= SMS and sums <= tile.stages * stage
    ring = tile.stages * (stage + scales + 16)
    two = tile.tokens <= FEW and ring + 2 * sums <= room(tile)
    return ring + (0 if alone else 2 if two else 1) * sums


def room(tile: SmallTile) -> int:
    """Bytes of shared memory that a block of these tiles may have."""
    return SMEM // 2 if tile.beside else SMEM


def _large(tile: LargeTile, shape: Shape) -> str | None:
    bits = _bits(shape)
    used = large_bytes(tile, 16 // min(bits))
    # Warpgroups that share K take turns with stages of weights, 128 bytes of each row.
    groups = 2 if tile.rows == 64 else 1
    turns = all(tile.stages % (16 // one * groups) == 0 for one in bits)
    checks = (
        (used <= SMEM, f"needs {used} bytes of shared memory of {SMEM}"),
        (min(tile.stages, tile.ahead) >= 2 * groups, "fewer than two stages"),
        # Tokens of a group's products stay until those of its next have come: two turns' steps.
        (
            tile.tokens > 64 or all(tile.stages >= 16 // one * (groups + 1) for one in bits),
            f"{tile.stages} stages of tokens for two turns",
        ),
        (groups == 1 or (turns and tile.ahead % groups == 0), f"no turns of {groups} warpgroups"),
        (tile.tokens in (64, 128, 256), f"{tile.tokens} tokens"),
        (tile.tokens >= 64 * tile.buffers, f"{tile.buffers} buffers of {tile.tokens} tokens"),
    )
    return next((reason for ok, reason in checks if not ok), None)


def large_bytes(tile: LargeTile, widest: int) -> int:
    """Of shared memory: rings, scales of 4-bit weights, results on their way, sums, barriers."""
    scales = tile.rows // 32 * 4 * SCALES if widest == 4 else 0
    rings = tile.stages * (tile.tokens * 128 + 16) + tile.ahead * (tile.rows * 128 + scales + 16)
    if tile.split > 1:
        return rings
    results = min(tile.rows, 128) // 64 * tile.buffers * 8192
    return rings + results + (64 * tile.tokens * 4 if tile.rows == 64 else 0)


def _bits(shape: Shape) -> list[int]:
    return [BITS[form.removesuffix(":f32")] for form in str(shape["formats"]).split()]


def near(values: Values, shape: Shape) -> Iterator[dict[str, int | bool | str]]:
    """As many stages as fit; of mma.sync with the same warps along K, of wgmma with the same rows."""
    if "depth" not in values:
        yield from _near_large(values, shape)
        return
    depths = [64 * int(values["warps_k"]) * n for n in (1, 2, 4, 8, 16)]
    found = (
        {**values, "rows": rows, "warps_m": warps, "depth": depth, "beside": beside}
        for rows, warps, depth, beside in product(
            (8, 16, 32, 64), (1, 2, 4, 8), depths, (False, True)
        )
        if depth <= 1024
    )
    filled = (_filled(one, shape) for one in found)
    yield from closest(values, [one for one in filled if one is not None], "stages")


def _near_large(values: Values, shape: Shape) -> Iterator[dict[str, int | bool | str]]:
    found = (
        {**values, "ahead": ahead, "buffers": buffers, "band": band}
        for ahead, buffers, band in product(range(2, 13), (1, 2), (4, 8, 16, 32))
    )
    filled = (_filled(one, shape) for one in found)
    yield from closest(values, [one for one in filled if one is not None], "stages")


def _filled(
    values: dict[str, int | bool | str], shape: Shape
) -> dict[str, int | bool | str] | None:
    """The tile with as many stages as are legal, or None."""
    for count in range(MOST_STAGES + 4, 1, -1):
        if legal({**values, "stages": count}, shape) is None:
            return {**values, "stages": count}
    return None
