"""MXFP4 to NVFP4 without loss: the codes stay, the power-of-two scales are split in two.

With e the E8M0 byte of a block of 32 and e_max the largest of a matrix (of both w1 and w3, which
share scale_2): scale_2 = 2^(e_max - 127 - 8), and both blocks of 16 get the E4M3 scale
2^(e - e_max + 8). E4M3 reaches down to 2^-9, so e_max - e may be at most 17. Blocks of zeros alone do
not count: their scale does not matter.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dsv4c.errors import DsvError
from dsv4c.ir.formats import decode_e8m0, encode_e4m3
from dsv4c.ir.weight_formats import MXFP4_BLOCK, NVFP4_BLOCK

# 2^8 is the largest power of two of E4M3, 2^-9 its smallest.
_TOP, _SPREAD = 8, 17
# Of a matrix of zeros, whose scales are 1 then.
_NEUTRAL = 127 + _TOP
# scale_2 stays a normal float32, and 6 * 448 times it finite.
_EXPONENTS = range(127 + _TOP - 126, 127 + _TOP + 116 + 1)


def largest_exponent(packed: Tensor, scale: Tensor) -> int:
    """Largest E8M0 byte of the blocks of an MXFP4 matrix that are not all zero; 0 if there is none.

    Args:
        packed: uint8 [out, in/2].
        scale: uint8 [out, in/32].
    """
    return int(torch.where(_is_zero(packed, scale), 0, scale).max()) if scale.numel() else 0


def cast_mxfp4_to_nvfp4(
    packed: Tensor, scale: Tensor, largest: int, where: str = ""
) -> tuple[Tensor, Tensor, Tensor]:
    """NVFP4 components with the same dequantised values, bit for bit.

    Args:
        packed: uint8 [out, in/2], also the first result.
        scale: uint8 [out, in/32], no NaN.
        largest: `largest_exponent` of the matrices that share scale_2.
        where: file and tensor, for the message.

    Returns:
        packed; E4M3 bytes uint8 [out, in/16]; scale_2, float32 [].

    Raises:
        DsvError: DSV301, the exponents are too far apart.
    """
    zero = _is_zero(packed, scale)
    largest = largest or _NEUTRAL
    distance = largest - torch.where(zero, largest, scale.to(torch.int32))
    spread = int(distance.max()) if distance.numel() else 0
    if spread > _SPREAD or largest not in _EXPONENTS:
        raise DsvError(
            "DSV301",
            "the exponents of an MXFP4 weight do not fit NVFP4 without loss",
            where=where,
            expected=f"block scales within 2^{_SPREAD} of the largest, itself 2^-118 to 2^124",
            found=f"2^{largest - 127 - spread} beside 2^{largest - 127}",
            hint="keep the weight in mxfp4",
        )
    blocks = encode_e4m3(decode_e8m0((_NEUTRAL - distance).to(torch.uint8)))
    scale_2 = torch.tensor(2.0 ** (largest - 127 - _TOP), dtype=torch.float32)
    return packed, blocks.repeat_interleave(MXFP4_BLOCK // NVFP4_BLOCK, dim=-1), scale_2


def _is_zero(packed: Tensor, scale: Tensor) -> Tensor:
    """Which blocks hold nothing but zeros of either sign: bool, the shape of `scale`."""
    magnitudes = (packed & 0x77).unflatten(-1, (scale.shape[-1], -1))
    return (magnitudes == 0).all(-1)
