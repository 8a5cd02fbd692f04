"""8-bit and 4-bit number formats in plain torch: E2M1, E4M3 (the `fn` kind) and E8M0.

Codes travel as `torch.uint8`. Every function is vectorised, takes any leading dims, and gives the
same bits on CPU and CUDA. This module knows single numbers and blocks of them; what a weight or a
cache entry is made of is told in `dsv4c.ir.weight_formats` and `dsv4c.ir.cache`.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from dsv4c.errors import DsvError

E2M1_MAX = 6.0
E4M3_MAX = 448.0
E8M0_BIAS = 127
E8M0_NAN = 255


def decode_e2m1(codes: Tensor) -> Tensor:
    """Values of E2M1 codes.

    Args:
        codes: uint8 [...], each 0..15 (sign << 3 | magnitude).

    Returns:
        float32 [...], one of ±{0, 0.5, 1, 1.5, 2, 3, 4, 6}; code 8 is -0.
    """
    table = _e2m1_table(codes.device)
    return table.index_select(0, codes.flatten().to(torch.int32)).view(codes.shape)


@cache
def _e2m1_table(device: torch.device) -> Tensor:
    magnitudes = torch.tensor((0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0), device=device)
    return torch.cat((magnitudes, -magnitudes))


def encode_e2m1(x: Tensor) -> Tensor:
    """Nearest E2M1 code, ties to even, saturating at ±6 (PTX `cvt.rn.satfinite.e2m1x2`).

    Args:
        x: floating point [...]. The sign of a zero is kept; a NaN, which E2M1 lacks, becomes ±6.

    Returns:
        uint8 [...], each 0..15.
    """
    a = x.abs().nan_to_num(E2M1_MAX).clamp_max(E2M1_MAX)
    # Codes 0..3 lie 0.5 apart, 4 and 5 lie 1 apart, 6 and 7 lie 2 apart. An even result of round()
    # is an even code, so its ties are those of E2M1.
    wide = torch.where(a < 4, torch.round(a) + 2, torch.round(a / 2) + 4)
    code = torch.where(a < 2, torch.round(a * 2), wide).to(torch.uint8)
    return code | (torch.signbit(x).to(torch.uint8) << 3)


def decode_e4m3(codes: Tensor) -> Tensor:
    """Values of E4M3 bytes: float32 [...] of uint8 [...]; 0x7F and 0xFF are NaN, there is no inf."""
    return codes.view(torch.float8_e4m3fn).to(torch.float32)


def encode_e4m3(x: Tensor) -> Tensor:
    """Nearest E4M3 byte, ties to even, saturating at ±448; NaN stays NaN.

    Args:
        x: floating point [...]; float64 is rounded to float32 first.

    Returns:
        uint8 [...].
    """
    saturated = x.to(torch.float32).clamp(-E4M3_MAX, E4M3_MAX)
    return saturated.to(torch.float8_e4m3fn).view(torch.uint8)


def decode_e8m0(codes: Tensor) -> Tensor:
    """Values of E8M0 bytes: float32 2^(byte - 127), exact down to byte 0 (subnormal); 255 is NaN."""
    bits = codes.to(torch.int32) << 23
    bits = torch.where(codes == 0, 1 << 22, bits)
    return torch.where(codes == E8M0_NAN, 0x7FC00000, bits).view(torch.float32)


def encode_e8m0_ceil(x: Tensor) -> Tensor:
    """E8M0 byte of the smallest power of two that is not below x: 2^ceil(log2 x).

    Read from the bits of x (exponent, plus one if any mantissa bit is set), so no log2 is rounded.

    Args:
        x: positive float32 [...], normal numbers (>= 2^-126), at most 2^127.

    Returns:
        uint8 [...], each 1..254.
    """
    bits = x.contiguous().view(torch.int32)
    exponent = (bits >> 23) + ((bits & 0x7FFFFF) != 0).to(torch.int32)
    return exponent.clamp(1, E8M0_NAN - 1).to(torch.uint8)


def pack_nibbles(codes: Tensor) -> Tensor:
    """Pack 4-bit codes along the last dim, the even element in the low nibble.

    Args:
        codes: uint8 [..., n], each 0..15, n even.

    Returns:
        uint8 [..., n/2].
    """
    return codes[..., 0::2] | (codes[..., 1::2] << 4)


def unpack_nibbles(packed: Tensor) -> Tensor:
    """Inverse of `pack_nibbles`: uint8 [..., n/2] -> uint8 [..., n]."""
    return torch.stack((packed & 0xF, packed >> 4), dim=-1).flatten(-2)


def quantize_mxfp4(x: Tensor, block: int = 32) -> tuple[Tensor, Tensor]:
    """MXFP4 of the last dim: E2M1 codes and one E8M0 scale per block.

    a = max(amax, 6 * 2^-126), scale = 2^ceil(log2(a / 6)), code = E2M1(x / scale): the scale is
    rounded up, so nothing is clipped (DeepSeek's reference quantiser).

    Args:
        x: floating point [..., n], n a multiple of `block`; computed in float32.
        block: numbers that share a scale.

    Returns:
        uint8 [..., n/2] packed codes and uint8 [..., n/block] scale bytes.
    """
    blocks = split_blocks(x.to(torch.float32), block)
    amax = blocks.abs().amax(-1).clamp_min(E2M1_MAX * 2.0**-126)
    scale = encode_e8m0_ceil(amax / E2M1_MAX)
    codes = encode_e2m1(blocks / decode_e8m0(scale).unsqueeze(-1))
    return pack_nibbles(codes.flatten(-2)), scale


def dequantize_mxfp4(packed: Tensor, scale: Tensor) -> Tensor:
    """Exact values of MXFP4: uint8 [..., n/2] and E8M0 bytes [..., n/block] -> float32 [..., n]."""
    values = decode_e2m1(unpack_nibbles(packed))
    blocks = values.unflatten(-1, (scale.shape[-1], -1))
    return blocks.mul_(decode_e8m0(scale).unsqueeze(-1)).flatten(-2)


def fake_quant_mxfp4(x: Tensor, block: int = 32) -> Tensor:
    """Round x [..., n] to MXFP4 values and back; same shape and dtype."""
    return dequantize_mxfp4(*quantize_mxfp4(x, block)).to(x.dtype)


def quantize_e4m3_blocks(x: Tensor, block: int, floor: float) -> tuple[Tensor, Tensor]:
    """E4M3 of the last dim with one power-of-two scale per block.

    a = max(amax, floor), scale = 2^ceil(log2(a / 448)), code = E4M3(x / scale).

    Args:
        x: floating point [..., n], n a multiple of `block`; computed in float32.
        block: numbers that share a scale.
        floor: least amax, which bounds the scale from below.

    Returns:
        uint8 [..., n] E4M3 bytes and uint8 [..., n/block] E8M0 bytes.
    """
    blocks = split_blocks(x.to(torch.float32), block)
    scale = encode_e8m0_ceil(blocks.abs().amax(-1).clamp_min(floor) / E4M3_MAX)
    return encode_e4m3(blocks / decode_e8m0(scale).unsqueeze(-1)).flatten(-2), scale


def hadamard(x: Tensor) -> Tensor:
    """Multiply the last dim by H_n * n^-0.5, H_n the Sylvester Walsh-Hadamard matrix.

    The rotation is its own inverse. Butterflies in float32 (float64 for float64), rounded once.

    Args:
        x: floating point [..., n], n a power of two.

    Returns:
        Same shape and dtype.

    Raises:
        DsvError: DSV301, n is not a power of two.
    """
    n = x.shape[-1]
    if n < 1 or n & (n - 1):
        raise DsvError(
            "DSV301",
            "a Hadamard rotation needs a power of two",
            expected="a last dim that is a power of two",
            found=str(n),
        )
    y = x.to(torch.promote_types(x.dtype, torch.float32))
    half = 1
    while half < n:
        a, b = y.unflatten(-1, (-1, 2, half)).unbind(-2)
        y = torch.stack((a + b, a - b), dim=-2).flatten(-3)
        half *= 2
    return (y * n**-0.5).to(x.dtype)


def split_blocks(x: Tensor, block: int) -> Tensor:
    """View [..., n] as [..., n/block, block].

    Raises:
        DsvError: DSV301, n is not a multiple of `block`.
    """
    n = x.shape[-1]
    if n % block:
        raise DsvError(
            "DSV301",
            "the last dim does not split into whole blocks",
            expected=f"a multiple of {block}",
            found=str(n),
        )
    return x.unflatten(-1, (n // block, block))
