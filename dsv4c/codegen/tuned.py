"""Tiles that were measured: which of them a kernel takes instead of its table's, and why.

A family passes the tiles of its table through `tuned`; `render` says for which target, and keeps what
was found. The measured tiles are data, `tiles/data/<kind>.json`, written by `dsv4c tune apply`.

An entry counts while the table's tile is the one that it was measured against: a table that was
edited since wins. An entry of the very shape comes first, then that of the nearest shape whose sizes
are all within a factor of `NEAR`, on the same target; each with a legal tile; else the table's tile
stays. The card is not known when a kernel is compiled: entries hold for every card of their target.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Generator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar, cast

import msgspec

from dsv4c.codegen.spaces import refusal
from dsv4c.errors import DsvError

SCHEMA = "dsv4c.tiles/1"
NEAR = 1.25
TABLE = "table"

Size: TypeAlias = int | str | tuple[int, ...]
Shape: TypeAlias = Mapping[str, Size]
Values: TypeAlias = dict[str, int | bool | str]


class Tile(Protocol):
    """A frozen dataclass of numbers: how batches of up to `most` tokens (0: any) are worked on."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def most(self) -> int: ...


T = TypeVar("T", bound=Tile)


class Timed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was measured at T tokens: microseconds of the tile and of the one that it beat."""

    tokens: int
    us: float
    beaten_us: float


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A measured tile.

    Attributes:
        arch: the target.
        shape: of the kernel.
        most: the bucket of the table whose tile it replaces.
        tile: its fields, without `most`.
        beats: those of the table's tile then.
        card: that it was measured on.
        times: at one or several T of the bucket.
    """

    arch: str
    shape: dict[str, int | str | tuple[int, ...]]
    most: int
    tile: Values
    beats: Values
    card: str
    times: list[Timed]


class Entries(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A data file."""

    schema: str
    kind: str
    tiles: list[Entry]


@dataclass(frozen=True, slots=True)
class Chosen:
    """A tile that a kernel has, and where it is from.

    Args:
        most: its bucket.
        values: its fields, without `most`.
        table: those of the table's tile.
        origin: `table`, or the card that it was measured on and for which shape.
    """

    most: int
    values: Values
    table: Values
    origin: str


@dataclass(frozen=True, slots=True)
class Lookup:
    """One call of `tuned`: the kind of tile, the shape, the tiles that the table has and the result."""

    kind: str
    shape: Shape
    table: tuple[Tile, ...]
    chosen: tuple[Chosen, ...]


@dataclass(slots=True)
class _Scope:
    arch: str
    forced: Mapping[str, Sequence[Tile]]
    found: list[Lookup] = field(default_factory=list[Lookup])


_SCOPE: ContextVar[_Scope | None] = ContextVar("tuned", default=None)


@contextlib.contextmanager
def lookups(
    arch: str, forced: Mapping[str, Sequence[Tile]] | None = None
) -> Generator[list[Lookup]]:
    """Look tiles up for a target while the body runs; the lookups come in order.

    Args:
        arch: the target.
        forced: by kind, tiles to take whatever table and data say.
    """
    scope = _Scope(arch, forced or {})
    token = _SCOPE.set(scope)
    try:
        yield scope.found
    finally:
        _SCOPE.reset(token)


def tuned(kind: str, shape: Shape, tiles: tuple[T, ...]) -> tuple[T, ...]:
    """The tiles of a table, those replaced for which better ones were measured.

    Outside of `lookups` the target is not known, and the table's tiles stay.

    Args:
        kind: of tile: the name of a data file and of a module of `dsv4c.codegen.spaces`.
        shape: what else decides whether a tile is legal and how fast it is.
        tiles: ascending in `most`, 0 last.
    """
    scope = _SCOPE.get()
    if scope is None:
        return tiles
    if kind in scope.forced:
        return cast(tuple[T, ...], tuple(scope.forced[kind]))
    made: list[T] = []
    chosen: list[Chosen] = []
    for tile in tiles:
        table, origin, values = values_of(tile), TABLE, values_of(tile)
        if (entry := _entry(kind, scope.arch, shape, tile.most, table)) is not None:
            same = _sizes(entry.shape) == _sizes(shape)
            near = "" if same else " for " + shape_text(entry.shape)
            origin, values = f"measured on {entry.card}{near}", entry.tile
            tile = replace(tile, **values)
        made.append(tile)
        chosen.append(Chosen(tile.most, values, table, origin))
    scope.found.append(Lookup(kind, dict(shape), tiles, tuple(chosen)))
    return tuple(made)


def values_of(tile: Tile) -> Values:
    """Fields of a tile, without `most`."""
    found = cast(Values, asdict(tile))
    del found["most"]
    return found


def shape_text(shape: Shape) -> str:
    """Such as `depth=1024 rows=32768,8192`."""
    texts = (
        (name, ",".join(map(str, size)) if isinstance(size, tuple | list) else size)
        for name, size in shape.items()
    )
    return " ".join(f"{name}={text}" for name, text in texts)


def _entry(kind: str, arch: str, shape: Shape, most: int, table: Values) -> Entry | None:
    """The entry that counts, or None for the table's tile."""
    nearest, least = None, math.inf
    for entry in entries(kind):
        if (entry.arch, entry.most, entry.beats) != (arch, most, table):
            continue
        far = distance(entry.shape, shape)
        if far < least and refusal(kind, entry.tile, shape) is None:
            nearest, least = entry, far
    return nearest


def distance(one: Shape, other: Shape) -> float:
    """How far two shapes are apart: 0 for equal ones, infinite if a size is beyond `NEAR`."""
    first, second = _sizes(one), _sizes(other)
    if first.keys() != second.keys():
        return math.inf
    total = 0.0
    for name, size in first.items():
        with_ = second[name]
        if isinstance(size, str) or isinstance(with_, str):
            total += 0.0 if size == with_ else math.inf
            continue
        if len(size) != len(with_):
            return math.inf
        ratios = [max(a, b) / max(min(a, b), 1) for a, b in zip(size, with_, strict=True)]
        total += sum(math.log(ratio) if ratio <= NEAR else math.inf for ratio in ratios)
    return total


def _sizes(shape: Shape) -> dict[str, str | tuple[int, ...]]:
    """Numbers as tuples, whatever JSON made of them."""
    return {
        name: size if isinstance(size, str) else (size,) if isinstance(size, int) else tuple(size)
        for name, size in shape.items()
    }


@functools.cache
def entries(kind: str) -> tuple[Entry, ...]:
    """What was measured of a kind; nothing if it has no data file."""
    file = resources.files("dsv4c.codegen.tiles") / "data" / f"{kind}.json"
    return decode(file.read_bytes(), kind) if file.is_file() else ()


def decode(text: bytes, kind: str) -> tuple[Entry, ...]:
    """The entries of a data file.

    Raises:
        DsvError: DSV101, it is none of this kind.
    """
    try:
        read = msgspec.json.decode(text, type=Entries)
        if (read.schema, read.kind) != (SCHEMA, kind):
            raise ValueError(f"schema {read.schema!r} of kind {read.kind!r}")
    except ValueError as error:
        raise DsvError(
            "DSV101",
            "a data file of tiles cannot be read",
            where=f"tiles/data/{kind}.json",
            expected=f"what `dsv4c tune apply` writes ({SCHEMA})",
            found=str(error),
        ) from error
    return tuple(read.tiles)


def encode(kind: str, found: Sequence[Entry]) -> bytes:
    """A data file: sorted, one field a line."""
    order = sorted(found, key=lambda one: (one.arch, shape_text(one.shape), one.most or 1 << 30))
    text = msgspec.json.encode(Entries(SCHEMA, kind, order))
    return msgspec.json.format(text, indent=1) + b"\n"
