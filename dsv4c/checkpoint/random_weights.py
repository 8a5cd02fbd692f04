"""Random numbers in every weight format, with the statistics of trained weights, in any range.

The bytes of a matrix are blocks of 32 numbers drawn from a pool of 65,536: normal, each block with a
scale of its own. Which block stands where is a hash of (seed, name, place), so any range of any tensor
can be had alone, with the same bits every time, on any device, at the speed of a gather.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from dsv4c.ir.formats import encode_e4m3
from dsv4c.ir.weight_codecs import quantize
from dsv4c.ir.weight_formats import NVFP4_BLOCK

_POOL, _BLOCK = 1 << 16, 32
_SPREAD = 0.25  # deviation of the logarithm of a block's scale

# Blocks of 128x128 have one of three scales, 2^-1, 1 and 2 of the usual, with these odds of 16.
_ODDS = (3, 10, 3)
_RMS = math.sqrt(sum(n * 4.0**e for n, e in zip(_ODDS, (-1, 0, 1), strict=True)) / sum(_ODDS))


@dataclass(frozen=True, slots=True)
class Draw:
    """A stream of random numbers.

    Attributes:
        seed: of the checkpoint.
        name: of the tensor; a weight and its scales share it.
        device: where the numbers are made.
    """

    seed: int
    name: str
    device: str = "cpu"

    def indices(self, first: int, count: int) -> Tensor:
        """Numbers first to first + count of the stream: int32 [count], each 0 to 65,535."""
        start, stop = first // 4, -(-(first + count) // 4)
        lanes = self._hashed(start, stop).view(torch.int16)
        return lanes[first - 4 * start :][:count].to(torch.int32) & 0xFFFF

    def uniform(self) -> float:
        """One number in [0, 1)."""
        return int.from_bytes(self._digest()[8:12], "little") / 2**32

    def _hashed(self, start: int, stop: int) -> Tensor:
        """splitmix64 of a counter, begun at the stream's key: int64 [stop - start]."""
        key = int.from_bytes(self._digest()[:8], "little")
        x = torch.arange(start, stop, device=self.device)
        x = x.mul_(_signed(0x9E3779B97F4A7C15)).add_(_signed(key))
        x = _xor_shift(x, 30).mul_(_signed(0xBF58476D1CE4E5B9))
        x = _xor_shift(x, 27).mul_(_signed(0x94D049BB133111EB))
        return _xor_shift(x, 31)

    def _digest(self) -> bytes:
        return hashlib.sha256(f"{self.seed}:{self.name}".encode()).digest()


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _xor_shift(x: Tensor, count: int) -> Tensor:
    """X ^ (x >> count), the shift of unsigned numbers."""
    return x.bitwise_xor_((x >> count).bitwise_and_((1 << (64 - count)) - 1))


def component(
    draw: Draw,
    fmt: str,
    part: str,
    columns: int,
    first: int,
    count: int,
    shared: Draw | None = None,
) -> Tensor:
    """A range of one component of a random matrix, whose elements have a deviation of columns^-0.5.

    Args:
        draw: stream of the matrix.
        fmt: weight format.
        part: name of the component.
        columns: of the matrix.
        first: element of the component, in memory order.
        count: elements.
        shared: stream for NVFP4's scale_2, where several matrices share it.

    Returns:
        [count] of the component's storage type.
    """
    if fmt == "fp8_128" and part == "scale":
        return _fp8_scales(draw, columns, first, count)
    if part == "scale_2":
        scale = float(_nvfp4(columns, "cpu")[2]) * 2.0 ** (0.2 * (shared or draw).uniform() - 0.1)
        return torch.full((count,), scale, device=draw.device)
    pool = _pool(fmt, part, columns, draw.device)
    size = pool.shape[1]
    start, stop = first // size, -(-(first + count) // size)
    blocks = pool.index_select(0, draw.indices(start, stop - start))
    return blocks.view(-1)[first - start * size :][:count]


def normal(draw: Draw, count: int) -> Tensor:
    """float32 [count], mean 0, deviation 1."""
    return component(draw, "f32", "weight", 1, 0, count)


def _pool(fmt: str, part: str, columns: int, device: str) -> Tensor:
    """Blocks of one component, [65536, elements]."""
    number = 0 if part == "weight" else 1
    if fmt == "nvfp4":
        return _nvfp4(columns, device)[number]
    return _mxfp4(columns, device)[number] if fmt == "mxfp4" else _floats(fmt, columns, device)


@cache
def _base() -> Tensor:
    """float32 [65536, 32], mean square 1."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.exp(_SPREAD * torch.randn(_POOL, 1, generator=generator))
    values = torch.randn(_POOL, _BLOCK, generator=generator) * spread
    return values / values.square().mean().sqrt()


@cache
def _floats(fmt: str, columns: int, device: str) -> Tensor:
    if fmt == "fp8_128":
        return encode_e4m3(_base() * _fp8_gain(columns)[0]).to(device)
    dtype = torch.bfloat16 if fmt == "bf16" else torch.float32
    return (_base() * columns**-0.5).to(dtype).to(device)


@cache
def _mxfp4(columns: int, device: str) -> tuple[Tensor, ...]:
    return tuple(part.to(device) for part in quantize("mxfp4", _base() * columns**-0.5))


@cache
def _nvfp4(columns: int, device: str) -> tuple[Tensor, ...]:
    blocks = _base().view(-1, NVFP4_BLOCK)[:_POOL] * columns**-0.5
    codes, scale, scale_2 = quantize("nvfp4", blocks)
    return codes.to(device), scale.to(device), scale_2


def _fp8_gain(columns: int) -> tuple[float, int]:
    """What the pool is multiplied by before it is rounded, and the usual scale's exponent.

    A block's largest of 16,384 numbers, about 5 deviations with the spread, then lies in E4M3's top
    binade or the one below, as a quantiser has it.
    """
    deviation = columns**-0.5 / _RMS
    exponent = math.floor(math.log2(deviation / 40))
    return deviation / 2.0**exponent, exponent


def _fp8_scales(draw: Draw, columns: int, first: int, count: int) -> Tensor:
    """E8M0 bytes."""
    place = draw.indices(first, count) >> 12
    step = (place >= _ODDS[0]).to(torch.int32) + (place >= _ODDS[0] + _ODDS[1]).to(torch.int32)
    return (127 + _fp8_gain(columns)[1] - 1 + step).to(torch.uint8)
