"""Layouts of weights that kernels ask for, each with an exact inverse.

A packing is named "STEP+STEP": at first maybe one that joins weights with a common input, then
layouts of single components. It works on one matrix at a time, component by component, so weights
of any size stream through it. Without a packing a kernel gets a weight's components as stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from dsv4c.codegen import packing_mma as mma
from dsv4c.errors import DsvError
from dsv4c.ir.formats import pack_nibbles, unpack_nibbles
from dsv4c.ir.weight_formats import Shape

_FP4 = ("mxfp4", "nvfp4")
_FP8 = ("fp8_128", "fp8_128_f32")
_ROWS = 128
# What a CPU core's cache holds, and what another device works on at once.
_PIECE_BYTES = 1 << 18
_LARGE_PIECE_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class Join:
    """Makes one matrix of several of one format: groups of rows, of each weight in turn.

    Components with rows are joined so, in groups of `group` rows (0: a weight is one group). FP8
    scales stand for 128 rows: where there are groups, they are joined one by one. A component
    without dims (NVFP4's scale_2) becomes a vector with one number per weight.
    """

    name: str
    group: int

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """Shape of the joined component."""
        if not shapes[0]:
            return (len(shapes),)
        if len({shape[1:] for shape in shapes}) > 1:
            raise DsvError(
                "DSV301",
                "weights with different inputs cannot be joined",
                expected=str(list(shapes[0])),
                found=str([list(shape) for shape in shapes]),
            )
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def pack(self, fmt: str, part: str, tensors: Sequence[Tensor]) -> Tensor:
        """The joined component."""
        if tensors[0].dim() == 0:
            return torch.stack(list(tensors))
        if not self.group:
            return torch.cat(list(tensors))
        group, rows = self._size(fmt, part), {len(tensor) for tensor in tensors}
        if len(rows) == 1 and not rows.pop() % group:  # much faster than an order of rows
            parts = [tensor.unflatten(0, (-1, group)) for tensor in tensors]
            return torch.stack(parts, 1).flatten(0, 2)
        order = self._order(fmt, part, [len(tensor) for tensor in tensors])
        return torch.cat(list(tensors))[order.to(tensors[0].device)]

    def unpack(
        self, fmt: str, part: str, packed: Tensor, shapes: Sequence[Shape]
    ) -> tuple[Tensor, ...]:
        """The components that were joined."""
        if not shapes[0]:
            return packed.unbind()
        rows = [shape[0] for shape in shapes]
        if self.group:
            back = torch.empty_like(packed)
            back[self._order(fmt, part, rows).to(packed.device)] = packed
            packed = back
        return packed.split(rows)

    def _order(self, fmt: str, part: str, rows: Sequence[int]) -> Tensor:
        """For each joined row, its place among the rows of all weights, one after another."""
        group = self._size(fmt, part)
        number = torch.cat([torch.arange(count) // group for count in rows])
        return number.argsort(stable=True)

    def _size(self, fmt: str, part: str) -> int:
        """Rows of a group in a component."""
        return 1 if fmt in _FP8 and part == "scale" else self.group


@dataclass(frozen=True, slots=True)
class Layout:
    """A new order of one component, padded with zeros to whole tiles.

    Each stretch of `_ROWS` rows is packed alone and follows the one before.

    Attributes:
        name: of the step.
        formats: weight formats that have the component.
        part: the component.
        shape: packed shape of a shape [rows, columns].
        pack: tensor [rows, columns] -> packed tensor.
        unpack: its inverse, padding included.
    """

    name: str
    formats: tuple[str, ...]
    part: str
    shape: Callable[[Shape], Shape]
    pack: Callable[[Tensor], Tensor]
    unpack: Callable[[Tensor], Tensor]

    def changes(self, fmt: str, part: str) -> bool:
        """Whether it is about this component."""
        return fmt in self.formats and part == self.part


@dataclass(frozen=True, slots=True)
class Packing:
    """One packing; see `packing`. Methods work on one component of one matrix."""

    name: str
    join: Join | None
    layouts: tuple[Layout, ...]

    def shape(self, fmt: str, part: str, shapes: Sequence[Shape]) -> Shape:
        """Packed shape of a component.

        Args:
            fmt: weight format.
            part: name of the component.
            shapes: its shape in each weight.

        Raises:
            DsvError: DSV301, the weights cannot be joined.
        """
        shape = self._joined(shapes)
        for layout in self._layouts(fmt, part):
            shape = layout.shape(shape)
        return shape

    def pack(self, fmt: str, part: str, tensors: Sequence[Tensor]) -> Tensor:
        """The packed component, contiguous, on the device of the tensors, where it is made.

        Args:
            fmt: weight format.
            part: name of the component.
            tensors: it, of each weight.
        """
        pieces = list(self.pieces(fmt, part, tensors))
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]

    def pieces(self, fmt: str, part: str, tensors: Sequence[Tensor]) -> Iterator[Tensor]:
        """`pack` in contiguous pieces along the first dim, on a CPU small enough for a core's cache."""
        tensor = self.join.pack(fmt, part, tensors) if self.join else tensors[0]
        layouts = self._layouts(fmt, part)
        if not layouts:
            yield tensor.contiguous()
            return
        most = _PIECE_BYTES if tensor.device.type == "cpu" else _LARGE_PIECE_BYTES
        fit = most * len(tensor) // max(tensor.nbytes, 1)
        for piece in tensor.split(max(fit // _ROWS, 1) * _ROWS):
            for layout in layouts:
                piece = layout.pack(piece)
            yield piece.contiguous()

    def unpack(
        self, fmt: str, part: str, packed: Tensor, shapes: Sequence[Shape]
    ) -> tuple[Tensor, ...]:
        """Inverse of `pack`: the component of each weight, whose shapes are given."""
        joined = self._joined(shapes)
        for layout in reversed(self._layouts(fmt, part)):
            packed = layout.unpack(packed)
        packed = packed[tuple(slice(size) for size in joined)]
        return self.join.unpack(fmt, part, packed, shapes) if self.join else (packed,)

    def _joined(self, shapes: Sequence[Shape]) -> Shape:
        assert self.join or len(shapes) == 1, f"{self.name} takes one weight"
        return self.join.shape(shapes) if self.join else shapes[0]

    def _layouts(self, fmt: str, part: str) -> list[Layout]:
        return [layout for layout in self.layouts if layout.changes(fmt, part)]


@cache
def packing(name: str) -> Packing:
    """The packing of a name.

    Raises:
        DsvError: DSV231, a step is unknown or in a wrong place.
    """
    first, *rest = name.split("+")
    join = JOINS.get(first)
    steps = rest if join else [first, *rest]
    if not all(step in LAYOUTS for step in steps):
        known = ", ".join((*JOINS, *LAYOUTS))
        raise DsvError("DSV231", "unknown packing of a weight", expected=known, found=name)
    return Packing(name, join, tuple(LAYOUTS[step] for step in steps))


def _padded(tensor: Tensor, rows: int, columns: int) -> Tensor:
    return pad(tensor, (0, -tensor.shape[1] % columns, 0, -tensor.shape[0] % rows))


def _up(size: int, tile: int) -> int:
    return -(-size // tile)


def _scales_shape(shape: Shape) -> Shape:
    return (_up(shape[0], 128), _up(shape[1], 4), 512)


def _pack_scales(scale: Tensor) -> Tensor:
    """Row r, column j of a 128x4 tile at byte (r % 32) * 16 + (r // 32) * 4 + j."""
    # Four columns move as one word, which is much faster.
    words = _padded(scale, 128, 4).contiguous().view(torch.int32).unflatten(0, (-1, 4, 32))
    return words.permute(0, 3, 2, 1).contiguous().flatten(2).view(torch.uint8)


def _unpack_scales(packed: Tensor) -> Tensor:
    tiles = packed.unflatten(2, (32, 4, 4))
    return tiles.permute(0, 3, 2, 1, 4).flatten(3).flatten(0, 2)


def _wgmma_shape(shape: Shape) -> Shape:
    return (_up(shape[0], 64), _up(shape[1], 32), 128, 16)


def _pack_wgmma(weight: Tensor) -> Tensor:
    """See `_unpack_wgmma`, which is plain; this one works on words of four bytes, for speed."""
    words = _padded(weight, 64, 32).contiguous().view(torch.int32)
    # Dims: tile, warp, h, g | tile, k16 step, j; the four bytes of a word are c = 0..3.
    words = words.unflatten(1, (-1, 4, 2)).unflatten(0, (-1, 4, 2, 8))
    x, y = words.unbind(2)
    low = (x & 0x0F0F0F0F) | ((y & 0x0F0F0F0F) << 4)
    high = ((x >> 4) & 0x0F0F0F0F) | (y & _i32(0xF0F0F0F0))
    # One word per c, of the bytes c of low (j = 0, 1) and of high (j = 0, 1).
    even_low, odd_low = _transposed(*low.unbind(-1))
    even_high, odd_high = _transposed(*high.unbind(-1))
    by_c = (
        *((even_low & 0xFFFF) | (even_high << 16), (odd_low & 0xFFFF) | (odd_high << 16)),
        ((even_low >> 16) & 0xFFFF) | (even_high & _i32(0xFFFF0000)),
        ((odd_low >> 16) & 0xFFFF) | (odd_high & _i32(0xFFFF0000)),
    )
    # tile, warp, g, tile, step, c -> tile, tile, thread (warp, g, c), step
    ordered = torch.stack(by_c, -1).permute(0, 3, 1, 2, 5, 4).contiguous()
    return ordered.flatten(2, 4).view(torch.uint8)


def _transposed(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Words with bytes (a0, b0, a2, b2), and (a1, b1, a3, b3)."""
    even = (a & 0x00FF00FF) | ((b & 0x00FF00FF) << 8)
    return even, ((a >> 8) & 0x00FF00FF) | (b & _i32(0xFF00FF00))


def _i32(bits: int) -> int:
    return bits - (1 << 32)


def _unpack_wgmma(packed: Tensor) -> Tensor:
    """In register h + 2 * j of a k16 step thread (warp, g, c) of a 64x64 tile has elements e = 0, 1.

    They are of row 16 * warp + 8 * h + g and of the step's column 8 * j + 2 * c + e.
    """
    # Codes of a thread: step, then nibbles 4 * e + 2 * j + h of its word.
    codes = unpack_nibbles(packed).unflatten(3, (4, 2, 2, 2)).unflatten(2, (4, 8, 4))
    tiles = codes.permute(0, 2, 8, 3, 1, 5, 7, 4, 6)
    return pack_nibbles(tiles.flatten(4).flatten(0, 3))


JOINS = {
    join.name: join
    for join in (
        # Projections with one input: q's and the KV's, a compressor's kv and gate.
        Join("rows", 0),
        # w1 and w3: eight gates, then their eight ups, which land in one tile of the accumulator.
        Join("gate_up_8", 8),
        # Two tiles of 16 rows, gates and their ups: the units of `packing_mma`.
        Join("gate_up_16", 16),
    )
}
LAYOUTS = {
    layout.name: layout
    for layout in (
        # tcgen05's block-scaled MMA: tiles of 128 rows and 4 scales, along K first.
        Layout("scales_128x4", _FP4, "scale", _scales_shape, _pack_scales, _unpack_scales),
        # wgmma with A from registers: 16 bytes of each 64x64 tile per thread, a word per k16 step;
        # nibbles i and i + 4 of it are the pair of register i.
        Layout("wgmma_64x64", _FP4, "weight", _wgmma_shape, _pack_wgmma, _unpack_wgmma),
        # A registers of m16n8k16, 32 rows x 64 at a time.
        Layout("mma_fp4", _FP4, "weight", mma.fp4_shape, mma.fp4_pack, mma.fp4_unpack),
        Layout("mma_fp8", _FP8, "weight", mma.fp8_shape, mma.fp8_pack, mma.fp8_unpack),
        Layout("mma_bf16", ("bf16",), "weight", mma.bf16_shape, mma.bf16_pack, mma.bf16_unpack),
        Layout(
            "mma_nvfp4_scales",
            ("nvfp4",),
            "scale",
            mma.nvfp4_scale_shape,
            mma.nvfp4_scale_pack,
            mma.nvfp4_scale_unpack,
        ),
        Layout(
            "mma_mxfp4_scales",
            ("mxfp4",),
            "scale",
            mma.mxfp4_scale_shape,
            mma.mxfp4_scale_pack,
            mma.mxfp4_scale_unpack,
        ),
        Layout(
            "mma_fp8_scales",
            ("fp8_128",),
            "scale",
            mma.fp8_scale_shape,
            mma.fp8_scale_pack,
            mma.fp8_scale_unpack,
        ),
        Layout(
            "mma_fp8_gate_up_scales",
            ("fp8_128",),
            "scale",
            mma.fp8_gate_up_scale_shape,
            mma.fp8_gate_up_scale_pack,
            mma.fp8_gate_up_scale_unpack,
        ),
    )
}
