"""The ledger of a checkpoint: where each weight comes from, what is ignored, what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from dsv4c.errors import DsvError
from dsv4c.ir.weight_formats import Shape


class TensorHeader(Protocol):
    """What this module reads of a tensor."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> Shape: ...
    @property
    def file(self) -> str: ...


class HasTensors(Protocol):
    """A checkpoint, as far as its headers."""

    @property
    def tensors(self) -> Mapping[str, TensorHeader]: ...


@dataclass(frozen=True, slots=True)
class TensorSlice:
    """A checkpoint tensor, or the range `rows` of its second to last dim."""

    name: str
    rows: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class WeightSource:
    """Where a weight comes from.

    Attributes:
        format: a name of `dsv4c.ir.weight_formats.FORMATS`.
        shape: logical shape, experts stacked in front.
        components: for each component of the format its name and the tensors that make it: one,
            or one per expert.
    """

    format: str
    shape: Shape
    components: tuple[tuple[str, tuple[TensorSlice, ...]], ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """A tensor that keeps the checkpoint from being used.

    Attributes:
        kind: "missing", "unused" (the model has no such weight), or "wrong" (dtype, shape, twice).
        tensor: its name in the checkpoint; the official one if it is missing.
        error: the error to raise, which looks for a name that was meant.
    """

    kind: Literal["missing", "unused", "wrong"]
    tensor: str
    error: Callable[[], DsvError]


@dataclass(frozen=True, slots=True)
class Ledger:
    """Every tensor of a checkpoint, accounted for.

    Attributes:
        weights: source of each logical weight without a problem, in the order of `logical_weights`.
        ignored: tensors that are not used -> why.
        problems: what is wrong; none in the ledger of `read_ledger`.
    """

    weights: dict[str, WeightSource]
    ignored: dict[str, str]
    problems: tuple[Problem, ...] = ()
