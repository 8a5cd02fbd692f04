"""Tiles of the sites of hyper-connections: the same channels a block and a warp, so the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from dsv4c.codegen.spaces import Shape, Values, closest, number
from dsv4c.codegen.tiles.cards import SMEM
from dsv4c.codegen.tiles.mhc_site import SiteTile

# Clusters that an H100 runs at a time, by blocks of one.
_TEAMS = {16: 7, 8: 15, 4: 30, 2: 66, 1: 132}
_TOKENS, _STREAMS, _SLICE = 8, 4, 32
_SMEM = SMEM - 1024


def tile_type(values: Values) -> type[SiteTile]:
    """The same for all."""
    return SiteTile


def legal(values: Values, shape: Shape) -> str | None:
    """Why a tile does not fit, or None."""
    tile = SiteTile(most=0, **values)  # pyright: ignore[reportArgumentType]
    width = number(shape, "width")
    warps, rest = divmod(width, tile.blocks * tile.slices * _SLICE)
    if rest or not warps:
        return f"{width} channels do not share out to {tile.blocks} blocks"
    channels = warps * tile.slices * _SLICE
    staged = _TOKENS * (2 * channels * (_STREAMS + 1) + 256) if tile.staged else 0
    group = 4 * _TOKENS * (26 * warps + 6 * tile.blocks) + staged
    used = channels * _STREAMS * 24 * 4 + 4 * _TOKENS * 21 * tile.blocks + tile.groups * group
    others = 4 if tile.staged else 1  # warps that make post and comb, or copy
    # A block gets sums of post and comb every `blocks` tiles. That it has read the last ones, the
    # others know from the tile that its group takes in between.
    shared_out = tile.blocks % tile.groups == 0 and tile.blocks not in range(2, 2 * tile.groups)
    checks = (
        (tile.blocks <= 16 * warps, "a warp's lanes do not suffice for the sums"),
        (tile.groups in (1, 2, 4), f"{tile.groups} groups"),
        (shared_out, f"{tile.groups} groups of {tile.blocks} blocks"),
        (tile.groups * warps + others <= 32, f"{tile.groups} groups of {warps} warps"),
        (1 <= tile.teams <= _TEAMS.get(tile.blocks, 0), f"{tile.teams} clusters at a time"),
        (not tile.staged or shape["site"] == "mhc_seam", "only the seam copies ahead"),
        (used <= _SMEM, f"needs {used} bytes of shared memory of {_SMEM}"),
    )
    return next((reason for ok, reason in checks if not ok), None)


def near(values: Values, shape: Shape) -> Iterator[dict[str, int | bool | str]]:
    """Other groups of warps, clusters in a launch, with copies ahead or without."""
    most = _TEAMS[int(values["blocks"])]
    options = product((1, 2, 4), {1, 2, most // 2 + 1, most}, (False, True))
    found: list[dict[str, int | bool | str]] = [
        {**values, "groups": groups, "teams": teams, "staged": staged}
        for groups, teams, staged in options
    ]
    yield from closest(values, found)
