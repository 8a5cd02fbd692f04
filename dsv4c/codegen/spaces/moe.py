"""Tiles of the experts' streaming projections: a token's bits are the same in all of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from dsv4c.codegen.kernels._moe import streamed_forms
from dsv4c.codegen.spaces import Shape, Values, closest, number
from dsv4c.codegen.tiles.moe import Wish, fit

_BYTES = (9216, 18432, 36864)


def tile_type(values: Values) -> type[Wish]:
    """The same for all."""
    return Wish


def legal(values: Values, shape: Shape) -> str | None:
    """Why a wish cannot be met, or None."""
    wish = Wish(most=0, **values)  # pyright: ignore[reportArgumentType]
    if wish.tokens not in (8, 16, 32):
        return f"{wish.tokens} tokens at a time"
    forms = streamed_forms(str(shape["form"]), str(shape["shared_form"]))
    # Lists of experts, and sums of the down projection.
    more = 4 * (4 * number(shape, "experts") + 256) + 4 * number(shape, "held") * 32 * wish.groups
    tile = fit(wish, number(shape, "depth") // 64, number(shape, "row_groups"), forms, more)
    if tile.stages < 2:
        return f"{tile.stages} stages fit the shared memory"
    return None if tile.tokens == wish.tokens else f"{wish.tokens} tokens leave room for one stage"


def near(values: Values, shape: Shape) -> Iterator[dict[str, int | bool | str]]:
    """Other tokens at a time, rows of a task, bytes of a stage, stages."""
    # The down projection has as many row groups in a task as make its tasks run at once.
    groups = (int(values["groups"]),) if number(shape, "held") else (1, 2)
    options = product((8, 16, 32), groups, _BYTES, (4, 6, 8, 12))
    found: list[dict[str, int | bool | str]] = [
        {**values, "tokens": tokens, "groups": group, "weights": size, "stages": stages}
        for tokens, group, size, stages in options
    ]
    yield from closest(values, found)
