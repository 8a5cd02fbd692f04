"""Types of IR values: tensors with named dims, weights with formats, states with layouts.

A dim is an int, or a `Sym`: a number known only when a step runs (`T` tokens, `P` pages of a block
table row, `R` rows of logits), times a constant.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from dsv4c.errors import DsvError
from dsv4c.ir.cache import CacheLayout
from dsv4c.ir.weight_formats import FORMATS

DTYPE_BYTES = {"f64": 8, "f32": 4, "bf16": 2, "i64": 8, "i32": 4, "u8": 1}
FLOATS = ("f64", "f32", "bf16")


@dataclass(frozen=True, slots=True)
class Sym:
    """A run-time number, `scale * name + offset`."""

    name: str
    scale: int = 1
    offset: int = 0

    def __str__(self) -> str:
        text = self.name if self.scale == 1 else f"{self.scale}*{self.name}"
        return f"{text}+{self.offset}" if self.offset else text

    def __mul__(self, factor: int) -> Sym:
        return Sym(self.name, self.scale * factor, self.offset * factor)

    __rmul__ = __mul__

    def __add__(self, other: int) -> Sym:
        return Sym(self.name, self.scale, self.offset + other)

    __radd__ = __add__


Dim = int | Sym
Dims = tuple[Dim, ...]


def parse_dim(text: str) -> Dim:
    """Read `128`, `T`, `32*P` or `32*P+128`. Raises ValueError on anything else."""
    match = re.fullmatch(r"\s*(?:(\d+)\*)?([A-Za-z]\w*)(?:\+(\d+))?\s*", text)
    if match is None:
        return int(text)
    return Sym(match[2], int(match[1] or 1), int(match[3] or 0))


def evaluate(dim: Dim, env: Mapping[str, int]) -> int:
    """The number behind a dim, given the run-time symbols."""
    return dim if isinstance(dim, int) else dim.scale * env[dim.name] + dim.offset


def dims_text(dims: Dims) -> str:
    return "[" + ", ".join(str(dim) for dim in dims) + "]"


@dataclass(frozen=True, slots=True)
class TensorType:
    """A dense array that a step computes. `dtype` is a key of `DTYPE_BYTES`."""

    dtype: str
    dims: Dims

    def __str__(self) -> str:
        return self.dtype + dims_text(self.dims)

    def nbytes(self, env: Mapping[str, int]) -> int:
        return DTYPE_BYTES[self.dtype] * math.prod(evaluate(dim, env) for dim in self.dims)


@dataclass(frozen=True, slots=True)
class WeightType:
    """A constant in a number format of `formats.FORMATS`; `dims` are logical, `[.., out, in]`."""

    format: str
    dims: tuple[int, ...]

    def __str__(self) -> str:
        return f"weight<{self.format}>" + dims_text(self.dims)

    def nbytes(self, env: Mapping[str, int]) -> int:
        del env
        return FORMATS[self.format].nbytes(self.dims)


@dataclass(frozen=True, slots=True)
class CacheType:
    """Paged entries of one layer (deepseek-v4.md 4.2).

    `ring` > 0: that many entries belong to each sequence slot, position p at row p mod ring.
    `ring` = 0: pages are handed out by the block table, `layout.page` entries each.
    """

    layout: CacheLayout
    ring: int = 0

    def __str__(self) -> str:
        lay = self.layout
        where = f"ring={self.ring}" if self.ring else "paged"
        return f"cache<{lay.format}, width={lay.width}, rope={lay.rope}, page={lay.page}, {where}>"

    def pages(self, env: Mapping[str, int]) -> int:
        """Pages to allocate for `S` slots and `N` logical pages."""
        return env["S"] * self.ring // self.layout.page if self.ring else env["N"]

    def nbytes(self, env: Mapping[str, int]) -> int:
        return self.pages(env) * self.layout.page_bytes


@dataclass(frozen=True, slots=True)
class RowsType:
    """A compressor's partial rows: f32 [S slots, rows, width]; position p at row p mod rows.

    The first half of a row is kv, the second the gate plus its position bias.
    """

    rows: int
    width: int

    def __str__(self) -> str:
        return f"rows<{self.rows}, {self.width}>"

    def nbytes(self, env: Mapping[str, int]) -> int:
        return env["S"] * self.rows * self.width * 4


StateType = CacheType | RowsType
Type = TensorType | WeightType | CacheType | RowsType


def parse_type(text: str) -> Type:
    """Inverse of `str(type)`. Raises DsvError DSV221."""
    try:
        if text.startswith("weight<"):
            match = re.fullmatch(r"weight<(\w+)>\[(.*)\]", text)
            if match is None or match[1] not in FORMATS:
                raise ValueError(text)
            return WeightType(match[1], tuple(int(part) for part in match[2].split(",") if part))
        if text.startswith("rows<"):
            rows, width = text[5:-1].split(",")
            return RowsType(int(rows), int(width))
        if text.startswith("cache<"):
            fmt, *rest = [part.strip() for part in text[6:-1].split(",")]
            facts = dict(part.split("=") for part in rest if "=" in part)
            layout = CacheLayout(fmt, int(facts["width"]), int(facts["rope"]), int(facts["page"]))
            return CacheType(layout, int(facts.get("ring", 0)))
        match = re.fullmatch(r"(\w+)\[(.*)\]", text)
        if match is None or match[1] not in DTYPE_BYTES:
            raise ValueError(text)
        dims = tuple(parse_dim(part) for part in match[2].split(",") if part.strip())
        return TensorType(match[1], dims)
    except (ValueError, KeyError) as error:
        raise DsvError(
            "DSV221",
            "this is not a type",
            expected="dtype[dims], weight<format>[dims], cache<...> or rows<...>",
            found=text,
        ) from error
