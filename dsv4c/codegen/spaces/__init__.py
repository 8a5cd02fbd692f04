"""Which tiles a kernel may have: one module per kind of tile, for `dsv4c tune`.

Every candidate keeps a token's bits: it adds up the same parts of K in the same order as the tile that
it would replace. So a measured tile needs no tolerance, and batch invariance stays as it is.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, Protocol, cast

MODULES: dict[str, str] = {
    "linears": "dsv4c.codegen.spaces.linears",
    "moe_gate_up": "dsv4c.codegen.spaces.moe",
    "moe_down": "dsv4c.codegen.spaces.moe",
    "mhc_seam": "dsv4c.codegen.spaces.mhc_site",
    "mhc_first": "dsv4c.codegen.spaces.mhc_site",
    "mhc_head": "dsv4c.codegen.spaces.mhc_site",
}
# Kinds whose tile depends on its bucket: a candidate is tried among the other tiles, not alone.
WHOLE = ("moe_gate_up", "moe_down")

Values = Mapping[str, int | bool | str]
Shape = Mapping[str, int | str | tuple[int, ...]]
# Above every size of a model: nothing that counts up to a size runs long.
_LARGEST = 1 << 24


class Space(Protocol):
    """What a module of this package offers."""

    def tile_type(self, values: Values) -> type[Any]:
        """The frozen dataclass of such tiles: its fields are positive ints or bools."""
        ...

    def legal(self, values: Values, shape: Shape) -> str | None:
        """Why a tile does not fit a shape, or None: shared memory, threads, what divides what."""
        ...

    def near(self, values: Values, shape: Shape) -> Iterator[dict[str, int | bool | str]]:
        """Tiles that may be faster than one and keep a token's bits, promising ones first.

        Some may not be legal, and some may repeat.
        """
        ...


def space_of(kind: str) -> Space:
    """The space of a kind of `MODULES`."""
    return cast(Space, importlib.import_module(MODULES[kind]))


def refusal(kind: str, values: Values, shape: Shape) -> str | None:
    """Why values from a file are no tile of a shape from a file, or None.

    Args:
        kind: of `MODULES`.
        values: any fields with any values.
        shape: any sizes.
    """
    space = space_of(kind)
    wanted = {one.name: one.type for one in fields(space.tile_type(values)) if one.name != "most"}
    if more := values.keys() - wanted.keys():
        return f"unknown field {min(more)}"
    if missing := wanted.keys() - values.keys():
        return f"no field {min(missing)}"
    for name, value in values.items():
        if type(value).__name__ != wanted[name] or int(value) < (wanted[name] == "int"):
            return f"{name} = {value!r}"
    for name, size in shape.items():
        numbers = (
            size if isinstance(size, tuple | list) else () if isinstance(size, str) else [size]
        )
        if not all(0 <= one < _LARGEST for one in numbers):
            return f"its shape has {name} = {size}"
    try:
        return space.legal(values, shape)
    except (ArithmeticError, AssertionError, LookupError, ValueError) as error:
        return f"nothing fits its shape ({type(error).__name__}: {error})"


def number(shape: Shape, name: str) -> int:
    """A size that is one number."""
    size = shape[name]
    assert isinstance(size, int), f"{name} is {size!r}"
    return size


def closest(
    values: Values, found: list[dict[str, int | bool | str]], derived: str = ""
) -> list[dict[str, int | bool | str]]:
    """Other tiles than one, those first that differ from it in few fields and by small factors.

    Args:
        values: the tile.
        found: others, and maybe itself.
        derived: a field that follows from the others, and does not count.
    """

    def far(other: Values) -> float:
        pairs = [(values[name], other[name]) for name in values if name != derived]
        return sum(abs(math.log2((int(a) + 1) / (int(b) + 1))) + (a != b) for a, b in pairs)

    others = [one for one in found if one != dict(values)]
    return sorted(others, key=lambda one: (far(one), str(sorted(one.items()))))
