"""Weight formats: which component tensors stand for a logical weight, and what they mean.

A logical weight has shape [out, in], or [E, out, in] when experts are stacked; one-dimensional and
integer weights are always plain. 8-bit floats and packed codes are `torch.uint8`. Types need this
module alone; what the components' values mean is in `dsv4c.ir.weight_codecs`, which needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING

from dsv4c.errors import DsvError

if TYPE_CHECKING:
    import torch

FP8_BLOCK = 128
MXFP4_BLOCK = 32
NVFP4_BLOCK = 16

Shape = tuple[int, ...]

# torch's name and the bytes of each storage type.
_DTYPES = {"f32": ("float32", 4), "bf16": ("bfloat16", 2), "i64": ("int64", 8), "u8": ("uint8", 1)}


@dataclass(frozen=True, slots=True)
class Component:
    """One stored tensor of a weight.

    Attributes:
        name: "weight", "scale" or "scale_2".
        dtype: storage type, `f32`, `bf16`, `i64` or `u8`.
        shape: component shape of a logical shape.
    """

    name: str
    dtype: str
    shape: Callable[[Shape], Shape]

    @property
    def torch_dtype(self) -> torch.dtype:
        import torch

        dtype: torch.dtype = getattr(torch, _DTYPES[self.dtype][0])
        return dtype

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return _DTYPES[self.dtype][1]


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """Declaration of a weight format.

    Attributes:
        name: how the rest of the project calls it.
        doc: one line of meaning.
        components: stored tensors, in the order that kernels take them.
        block: the last dim must be a multiple of it (1: anything).
    """

    name: str
    doc: str
    components: tuple[Component, ...]
    block: int = 1

    @property
    def component_names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.components)

    def component_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """Shapes of the components of a logical shape.

        Raises:
            DsvError: DSV301, the last dim does not split into whole blocks.
        """
        if shape and shape[-1] % self.block:
            raise DsvError(
                "DSV301",
                f"a weight of shape {list(shape)} cannot be {self.name}",
                expected=f"a last dim that is a multiple of {self.block}",
                found=str(shape[-1]),
            )
        return tuple(c.shape(shape) for c in self.components)

    def nbytes(self, shape: Shape) -> int:
        """Stored bytes of a weight of this logical shape."""
        shapes = self.component_shapes(shape)
        return sum(prod(s) * c.itemsize for c, s in zip(self.components, shapes, strict=True))


def _same(shape: Shape) -> Shape:
    return shape


def _leading(shape: Shape) -> Shape:
    return shape[:-2]


def _last_over(divisor: int) -> Callable[[Shape], Shape]:
    return lambda shape: (*shape[:-1], shape[-1] // divisor)


def _blocks_128(shape: Shape) -> Shape:
    return (*shape[:-2], -(-shape[-2] // FP8_BLOCK), -(-shape[-1] // FP8_BLOCK))


def _plain(name: str) -> WeightFormat:
    doc = f"plain {_DTYPES[name][0]}"
    return WeightFormat(name, doc, (Component("weight", name, _same),))


FORMATS: Mapping[str, WeightFormat] = MappingProxyType(
    {
        f.name: f
        for f in (
            _plain("f32"),
            _plain("bf16"),
            _plain("i64"),
            WeightFormat(
                "fp8_128",
                "E4M3 with one E8M0 scale per 128x128 block",
                (
                    Component("weight", "u8", _same),
                    Component("scale", "u8", _blocks_128),
                ),
            ),
            WeightFormat(
                "fp8_128_f32",
                "E4M3 with one float32 scale per 128x128 block",
                (
                    Component("weight", "u8", _same),
                    Component("scale", "f32", _blocks_128),
                ),
            ),
            WeightFormat(
                "mxfp4",
                "E2M1 pairs with one E8M0 scale per 32 of a row",
                (
                    Component("weight", "u8", _last_over(2)),
                    Component("scale", "u8", _last_over(MXFP4_BLOCK)),
                ),
                block=MXFP4_BLOCK,
            ),
            WeightFormat(
                "nvfp4",
                "E2M1 pairs with one E4M3 scale per 16 of a row and one float32 scale per matrix",
                (
                    Component("weight", "u8", _last_over(2)),
                    Component("scale", "u8", _last_over(NVFP4_BLOCK)),
                    Component("scale_2", "f32", _leading),
                ),
                block=NVFP4_BLOCK,
            ),
        )
    }
)


def weight_format(name: str) -> WeightFormat:
    """Look a format up.

    Raises:
        DsvError: DSV301, there is no such format.
    """
    if name not in FORMATS:
        raise DsvError(
            "DSV301",
            "unknown weight format",
            expected=", ".join(FORMATS),
            found=name,
        )
    return FORMATS[name]
