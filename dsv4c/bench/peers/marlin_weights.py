"""NVFP4 weights of experts in Marlin's order.

Marlin reads tiles of 16 x 64 of the transposed weight; a thread's eight nibbles of a word are the
operands of one matrix instruction. Scales are stored without a sign and with an exponent bias that
makes the top bit of every one set: E4M3 times 2^7 as the high bits of a half, shifted left by one;
the global scale takes back what that, and bf16's bias beside E2M1's, multiply.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

# Nibbles of a word: even ones first.
_NIBBLES = (0, 2, 4, 6, 1, 3, 5, 7)
# exponent biases: bf16's 2^7 less E2M1's 2^1, and the 2^7 of the scales
_GLOBAL = 2.0 ** (126 - 7)


@cache
def _order() -> Tensor:
    """Where each of the 1024 nibbles of four 16 x 16 tiles comes from."""
    found: list[int] = []
    for thread in range(32):
        column, row = thread // 4, 2 * (thread % 4)
        rows = (row, row + 1, row + 8, row + 9)
        one = [16 * r + column + 8 * half for half in (0, 1) for r in rows]
        for tile in range(4):
            found += [256 * tile + one[nibble] for nibble in _NIBBLES]
    return torch.tensor(found)


def repacked(codes: Tensor) -> Tensor:
    """One expert's codes in Marlin's order.

    Args:
        codes: uint8 [n, k / 2], the even element in the low nibble.

    Returns:
        int32 [k / 16, 2 n].
    """
    values = torch.stack((codes & 15, codes >> 4), -1).flatten(1).T
    k, n = values.shape
    tiles = values.unflatten(0, (k // 16, 16)).unflatten(2, (n // 16, 16)).transpose(1, 2)
    words = tiles.reshape(k // 16, -1, 1024)[..., _order().to(codes.device)]
    words = words.reshape(k // 16, 2 * n, 8).to(torch.int32)
    packed = words[..., 0].clone()
    for i in range(1, 8):
        packed |= words[..., i] << 4 * i
    return packed


def rescale(scales: Tensor) -> float:
    """The power of two that brings the largest of all experts' scales below 448."""
    largest = float(scales.view(torch.float8_e4m3fn).float().max())
    return 2.0 ** int(torch.tensor(448 / largest).log2().floor())


def scales(scale: Tensor, factor: float) -> Tensor:
    """One expert's scales in Marlin's order and form.

    Args:
        scale: E4M3 bytes [n, k / 16], not negative.
        factor: of `rescale`.

    Returns:
        Bytes as float8_e4m3fn [k / 16, n].
    """
    values = scale.view(torch.float8_e4m3fn).half().T
    order = torch.tensor([i + 8 * j for i in range(8) for j in range(8)], device=scale.device)
    moved = values.reshape(-1, 64)[:, order].reshape(-1, 4)[:, [0, 2, 1, 3]]
    moved = moved.reshape(values.shape) * factor * 2.0**7
    moved = torch.where(moved < 2, 0.0, moved)
    high = (moved.view(torch.int16) << 1).view(torch.uint8)[:, 1::2]
    return high.contiguous().view(torch.float8_e4m3fn)


def global_scale(scale_2: Tensor, factor: float) -> Tensor:
    """Marlin's float32 scale of each expert for `scale_2` [E]."""
    return scale_2 * (_GLOBAL / factor)
