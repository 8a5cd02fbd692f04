"""What graph values are at run time: tensors, weights with their components, states in buffers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Literal

import torch

from dsv4c.ir.types import CacheType, RowsType, WeightType
from dsv4c.ir.weight_codecs import dequantize

TORCH_DTYPES = {
    "f64": torch.float64,
    "f32": torch.float32,
    "bf16": torch.bfloat16,
    "i64": torch.int64,
    "i32": torch.int32,
    "u8": torch.uint8,
}
Precision = Literal["plan", "exact"]
_KEPT_EXPERTS = 1 << 26


@dataclass(eq=False)
class Weight:
    """A weight's components (formats.py) and, once asked for, its decoded values.

    A decoded copy is kept: the interpreter trades memory for time; kernels read the components.
    `stored` is the components, or makes them when they are first asked for, or those of one
    matrix of a stacked weight, whose number it is given.
    """

    type: WeightType
    stored: tuple[torch.Tensor, ...] | Callable[[int | None], tuple[torch.Tensor, ...]]
    _dense: dict[torch.dtype, torch.Tensor] = field(default_factory=dict[torch.dtype, torch.Tensor])

    @cached_property
    def components(self) -> tuple[torch.Tensor, ...]:
        """The stored tensors, in the order of the format."""
        return self.stored(None) if callable(self.stored) else self.stored

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """The exact values in `dtype` (f32 or f64), or the raw integers of an `i64` table."""
        if self.type.format == "i64":
            return self.components[0]
        if dtype not in self._dense:
            values = dequantize(self.type.format, self.components, self.type.dims)
            self._dense[dtype] = values.to(dtype)
        return self._dense[dtype]

    def expert(self, number: int, dtype: torch.dtype) -> torch.Tensor:
        """The exact values of one matrix of a stacked weight; the others are decoded only if small."""
        dims = self.type.dims
        if dtype in self._dense or prod(dims) <= _KEPT_EXPERTS:
            return self.dense(dtype)[number]
        if callable(self.stored):
            parts = self.stored(number)
        else:
            parts = tuple(component[number] for component in self.stored)
        return dequantize(self.type.format, parts, dims[1:]).to(dtype)

    def rows(self, index: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Rows of a plain-format table, without decoding the rest."""
        return self.components[0][index].to(dtype)


@dataclass(eq=False)
class State:
    """A cache or partial rows: the buffer that every version of the state shares."""

    type: CacheType | RowsType
    buffer: torch.Tensor

    @classmethod
    def allocate(
        cls, type_: CacheType | RowsType, env: Mapping[str, int], device: torch.device | str
    ) -> State:
        """A fresh state for `S` slots and `N` pages. New partial rows are (kv 0, gate -inf)."""
        if isinstance(type_, CacheType):
            return cls(type_, type_.layout.alloc(type_.pages(env), device))
        buffer = torch.zeros(env["S"], type_.rows, type_.width, device=device)
        buffer[..., type_.width // 2 :] = -torch.inf
        return cls(type_, buffer)

    def clone(self) -> State:
        return State(self.type, self.buffer.clone())


Operand = torch.Tensor | Weight | State


@dataclass(frozen=True, slots=True)
class Context:
    """What a reference needs beside its operands: the dtype to compute in."""

    compute: torch.dtype


CONTEXTS = {"plan": Context(torch.float32), "exact": Context(torch.float64)}
