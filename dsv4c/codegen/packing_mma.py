"""Weights in the order of a matrix instruction's A registers, so that decoding needs no shuffles.

A unit is 32 rows x 64 of K: two tiles a = 0, 1 of 16 rows, four k16 steps j. Register r of a lane
(g = lane // 4, q = lane % 4) holds row g + 8 (r % 2) and the pair k = 8 (r // 2) + 2q + e, e = 0, 1,
of a tile and step: mma.m16n8k16's A and a warp's part of wgmma's. Packed components are
[groups of 32 rows, units along K, elements], so that a row group is contiguous along K. All
functions take one component [rows, columns] and pad it with zeros to whole units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from dsv4c.ir.weight_formats import Shape

if TYPE_CHECKING:
    from numpy import uint32
    from numpy.typing import NDArray

GROUP, UNIT = 32, 64

# A word of four bytes, those of registers 0..3 (e = 0 in the low nibble), to the word from which
# a shift and a mask make each register: bits `mask` move left by `shift`.
_BITS = (
    *((0x80080007, 0), (0x00700008, 6), (0x00000070, 12), (0x00000080, 18), (0x10000800, 2)),
    *((0x00007000, 8), (0x00008000, 14), (0x00000700, -4), (0x60070000, -6), (0x00800000, -20)),
    *((0x01000000, -10), (0x06000000, -18), (0x08000000, -12)),
)


def _up(size: int, tile: int) -> int:
    return -(-size // tile)


def _tiles(part: Tensor, columns: int) -> Tensor:
    """[row group, a, h, g, unit, columns of a unit], padded; row = 16 a + 8 h + g of the group."""
    part = pad(part, (0, -part.shape[1] % columns, 0, -part.shape[0] % GROUP)).contiguous()
    return part.unflatten(1, (-1, columns)).unflatten(0, (-1, 2, 2, 8))


def _rows(tiles: Tensor) -> Tensor:
    """Inverse of `_tiles`, padding included."""
    return tiles.flatten(4).flatten(0, 3)


def _i32(bits: int) -> int:
    return bits - (1 << 32) if bits >> 31 else bits


def _moved(words: Tensor, mask: int, shift: int) -> Tensor:
    """Bits `mask` of int32 words, moved left by `shift` (right if negative)."""
    if shift >= 0:
        return (words & _i32(mask)) << shift
    return (words >> -shift) & _i32(mask >> -shift)


def _permuted(tensor: Tensor, *dims: int) -> Tensor:
    """`tensor.permute(*dims).contiguous()`; on a CPU by numpy, which takes a third of torch's time."""
    import numpy as np

    if tensor.device.type != "cpu":
        return tensor.permute(dims).contiguous()
    words = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.itemsize]
    found = np.ascontiguousarray(tensor.view(words).numpy().transpose(dims))
    return torch.from_numpy(found).view(tensor.dtype)


def fp4_shape(shape: Shape) -> Shape:
    """Codes: a 16-byte piece per tile and lane, a word per step; see `fp4_pack`."""
    return (_up(shape[0], GROUP), _up(shape[1], UNIT // 2), 1024)


def fp4_pack(codes: Tensor) -> Tensor:
    """Packed E2M1 pairs -> [tile, lane, step] words, bits moved by `_BITS`."""
    return _fp4_pack_numpy(codes) if codes.device.type == "cpu" else fp4_pack_torch(codes)


def fp4_pack_torch(codes: Tensor) -> Tensor:
    """`fp4_pack` on any device."""
    # Dims: row group, a, h, g, unit, j, c, q
    pairs = _tiles(codes, UNIT // 2).unflatten(5, (4, 2, 4)).permute(0, 4, 1, 3, 7, 5, 6, 2)
    plain = pairs.flatten(6).contiguous().view(torch.int32)
    moved = torch.zeros_like(plain)
    for mask, shift in _BITS:
        moved |= _moved(plain, mask, shift)
    return moved.flatten(2).view(torch.uint8)


def _fp4_pack_numpy(codes: Tensor) -> Tensor:
    """`fp4_pack` on a CPU, where torch's integer shifts do not use SIMD."""
    import numpy as np

    # Dims: row group, a, h, g, unit, j; byte q of word c is the pair of lane quarter q.
    words = _tiles(codes, UNIT // 2).numpy().view(np.uint64)
    low, high = words[:, :, 0], words[:, :, 1]
    bytes_, halves = np.uint64(0x00FF00FF00FF00FF), np.uint64(0xFFFF0000)
    found = np.empty((2, *low.shape), np.uint64)
    # Lanes 0 and 2, then 1 and 3: bytes (low, high) of c = 0, then of c = 1.
    found[0] = low & bytes_ | (high & bytes_) << np.uint64(8)
    found[1] = low >> np.uint64(8) & bytes_ | high & ~bytes_
    # The middle two 16-bit lanes change places, so that a word is a lane's.
    spare = found >> np.uint64(16)
    spare = (spare ^ found) & halves
    found ^= spare
    found ^= spare << np.uint64(16)
    moved = _moved_words(found.view(np.uint32))
    # Dims: lane % 2, row group, a, g, unit, j, lane // 2
    moved = torch.from_numpy(moved.view(np.int32).reshape(*found.shape, 2))
    return _permuted(moved, 1, 4, 2, 3, 6, 0, 5).flatten(2).view(torch.uint8)


def _moved_words(plain: NDArray[uint32]) -> NDArray[uint32]:
    """Words with their bits moved by `_BITS`."""
    import numpy as np

    moved, spare = plain & np.uint32(_BITS[0][0]), np.empty_like(plain)
    for mask, shift in _BITS[1:]:
        np.bitwise_and(plain, np.uint32(mask), out=spare)
        move = np.left_shift if shift > 0 else np.right_shift
        moved |= move(spare, np.uint32(abs(shift)), out=spare)
    return moved


def fp4_unpack(packed: Tensor) -> Tensor:
    """Inverse of `fp4_pack`."""
    moved = packed.contiguous().view(torch.int32)
    plain = torch.zeros_like(moved)
    for mask, shift in _BITS:
        target = mask << shift if shift >= 0 else mask >> -shift
        plain |= _moved(moved, target & 0xFFFFFFFF, -shift)
    # Dims: row group, unit, a, g, q, j, c, h
    found = plain.view(torch.uint8).unflatten(2, (2, 8, 4, 4, 2, 2))
    return _rows(found.permute(0, 2, 7, 3, 1, 5, 6, 4).contiguous())


def nvfp4_scale_shape(shape: Shape) -> Shape:
    """Scales: 16 bytes per g, a word per tile and two steps; see `nvfp4_scale_pack`."""
    return (_up(shape[0], GROUP), _up(shape[1], 4), 128)


def nvfp4_scale_pack(scale: Tensor) -> Tensor:
    """Words [g, a, pair of steps] of rows g, g + 8 (high half), turned left by 4.

    So the first step's scales lie in bits 4..11 and 20..27; after turning right by 8, the second's.
    """
    steps = _tiles(scale, 4).view(torch.int16)  # a pair of them in each
    words = _permuted(steps, 0, 4, 3, 1, 5, 2).flatten(2).view(torch.int32)
    return _turned(words, 4).view(torch.uint8)


def nvfp4_scale_unpack(packed: Tensor) -> Tensor:
    """Inverse of `nvfp4_scale_pack`."""
    words = _turned(packed.contiguous().view(torch.int32), 28)
    found = words.view(torch.uint8).unflatten(2, (8, 2, 2, 2, 2))
    return _rows(found.permute(0, 3, 5, 2, 1, 4, 6).contiguous())


def _turned(words: Tensor, left: int) -> Tensor:
    return (words << left) | ((words >> (32 - left)) & ((1 << left) - 1))


def mxfp4_scale_shape(shape: Shape) -> Shape:
    """Scales: a word per g and tile: blocks 0 and 1 of row g, then of row g + 8."""
    return (_up(shape[0], GROUP), _up(shape[1], 2), 64)


def mxfp4_scale_pack(scale: Tensor) -> Tensor:
    """[g, tile, h, block] bytes."""
    blocks = _tiles(scale, 2).view(torch.int16)  # a pair of them in each
    return _permuted(blocks, 0, 4, 3, 1, 2, 5).flatten(2).view(torch.uint8)


def mxfp4_scale_unpack(packed: Tensor) -> Tensor:
    """Inverse of `mxfp4_scale_pack`."""
    found = packed.unflatten(2, (8, 2, 2, 2))
    return _rows(found.permute(0, 3, 4, 2, 1, 5).contiguous())


def fp8_shape(shape: Shape) -> Shape:
    """Codes: 16 bytes per tile, pair of steps and lane; see `fp8_pack`."""
    return (_up(shape[0], GROUP), _up(shape[1], UNIT), 2048)


def fp8_pack(codes: Tensor) -> Tensor:
    """[tile, pair of steps, lane, step, k half] words: row g in bytes 1 and 3, row g + 8 in 0, 2."""
    tiles = _tiles(codes, UNIT).flip(2).unflatten(5, (2, 2, 2, 4, 2))
    # Dims: row group, a, h, g, unit, pair, step, c, q, e
    return _permuted(tiles, 0, 4, 1, 5, 3, 8, 6, 7, 9, 2).flatten(2)


def fp8_unpack(packed: Tensor) -> Tensor:
    """Inverse of `fp8_pack`."""
    found = packed.unflatten(2, (2, 2, 8, 4, 2, 2, 2, 2))
    return _rows(found.permute(0, 2, 9, 4, 1, 3, 6, 7, 5, 8).flip(2).contiguous())


def bf16_shape(shape: Shape) -> Shape:
    """Values: 16 bytes per tile, step and lane: its registers."""
    return (_up(shape[0], GROUP), _up(shape[1], UNIT), 2048)


def bf16_pack(values: Tensor) -> Tensor:
    """[tile, step, lane, register] pairs."""
    tiles = _tiles(values, UNIT).unflatten(5, (4, 2, 4, 2))
    # Dims: row group, a, h, g, unit, j, c, q, e
    pairs = tiles.view(torch.int32)
    return _permuted(pairs, 0, 4, 1, 5, 3, 7, 6, 2, 8).flatten(2).view(torch.bfloat16)


def bf16_unpack(packed: Tensor) -> Tensor:
    """Inverse of `bf16_pack`."""
    found = packed.unflatten(2, (2, 4, 8, 4, 2, 2, 2))
    return _rows(found.permute(0, 2, 7, 4, 1, 3, 6, 5, 8).contiguous())


def fp8_scale_shape(shape: Shape) -> Shape:
    """Scales of 128 x 128: 16 bytes per unit, one per tile, then zeros."""
    return (4 * shape[0], 2 * shape[1], 16)


def fp8_scale_pack(scale: Tensor) -> Tensor:
    """Each scale at every unit that it stands for, for both tiles."""
    units = scale.repeat_interleave(4, 0).repeat_interleave(2, 1)
    return pad(torch.stack([units, units], -1), (0, 14))


def fp8_scale_unpack(packed: Tensor) -> Tensor:
    """Inverse of `fp8_scale_pack`."""
    return packed[::4, ::2, 0]


def fp8_gate_up_scale_shape(shape: Shape) -> Shape:
    """Scales of gate and up in turn: tile 0 is gate, tile 1 is up."""
    return (8 * _up(shape[0], 2), 2 * shape[1], 16)


def fp8_gate_up_scale_pack(scale: Tensor) -> Tensor:
    """Each pair of scales at every unit that it stands for."""
    pairs = pad(scale, (0, 0, 0, scale.shape[0] % 2)).unflatten(0, (-1, 2)).transpose(1, 2)
    units = pairs.repeat_interleave(8, 0).repeat_interleave(2, 1)
    return pad(units, (0, 14))


def fp8_gate_up_scale_unpack(packed: Tensor) -> Tensor:
    """Inverse of `fp8_gate_up_scale_pack`."""
    return packed[::8, ::2, :2].transpose(1, 2).flatten(0, 1)
