"""The computation of kind latent_compress as a torch user writes it, without a host synchronisation.

For decode, where every token is its sequence's only one. Every token pools a window and stores an
entry, tokens that end none at a spare place: shapes must not depend on data in a CUDA graph.
"""

from __future__ import annotations

import torch
from entries import FP4_BLOCK, FP8_BLOCK, NOPE, data_view, hadamard, scale_view

EPS = 1e-6


def torch_version(*given: torch.Tensor) -> torch.Tensor:
    """Operands as of the kernel, fp8 caches; the last entry of each cache is spare."""
    q, q_norm, *compressors = given[:-5]
    pos, slot, _, angles, entry = given[-5:]
    for first in range(0, len(compressors), 6):
        rows, kv, gate, ape, norm, cache = compressors[first : first + 6]
        width, ratio = norm.shape[0], ape.shape[0]
        pooled = _pooled(rows, kv, gate, ape, pos.long(), slot.long(), width)
        y = _turned(_normed(pooled, norm), angles)
        page = 128 // ratio
        at = torch.where(entry >= 0, entry, cache.shape[0] * page - 1).long()
        if width == NOPE + angles.shape[1]:
            data, scales = _fp8(y)
        else:
            data, scales = _mxfp4(hadamard(y.float()).bfloat16())
        size, count = data.shape[1], scales.shape[1]
        data_view(cache, page, size)[at // page, at % page] = data
        scale_view(cache, page, size, count)[at // page, at % page] = scales
    return _normed(q, q_norm).bfloat16()


def _normed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * weight.float()


def _pooled(
    rows: torch.Tensor,
    kv: torch.Tensor,
    gate: torch.Tensor,
    ape: torch.Tensor,
    pos: torch.Tensor,
    slot: torch.Tensor,
    width: int,
) -> torch.Tensor:
    """The state with this token's row, and the window that ends at it."""
    total, half, ratio = rows.shape[1], rows.shape[2] // 2, ape.shape[0]
    rows[slot, pos % total] = torch.cat((kv, gate + ape[pos % ratio]), 1)
    window = rows[
        slot[:, None], (pos[:, None] + torch.arange(1, total + 1, device=pos.device)) % total
    ]
    values, z = window[..., :half], window[..., half:]
    if half > width:
        values, z = (
            torch.cat((t[:, :ratio, :width], t[:, ratio:, width:]), 1) for t in (values, z)
        )
    return (z.softmax(1) * values).sum(1)


def _turned(y: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """RoPE of the last dims, rounded to bf16."""
    rope = angles.shape[1]
    cos, sin = angles.chunk(2, 1)
    even, odd = y[:, -rope::2], y[:, -rope + 1 :: 2]
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
    return torch.cat((y[:, :-rope], turned), 1).bfloat16()


def _fp8(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Data and scale bytes: E4M3 in blocks of 64, then bf16."""
    blocks = y[:, :NOPE].float().unflatten(1, (-1, FP8_BLOCK))
    exponent = torch.ceil(torch.log2(blocks.abs().amax(-1, keepdim=True).clamp_min(1e-4) / 448))
    codes = (blocks * torch.exp2(-exponent)).to(torch.float8_e4m3fn).view(torch.uint8).flatten(1)
    scales = (exponent + 127).to(torch.uint8).squeeze(-1)
    data = torch.cat((codes, y[:, NOPE:].contiguous().view(torch.uint8)), 1)
    return data, torch.nn.functional.pad(scales, (0, 1))


def _mxfp4(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Packed E2M1 codes and scale bytes, in blocks of 32."""
    blocks = y.float().unflatten(1, (-1, FP4_BLOCK))
    exponent = torch.ceil(torch.log2(blocks.abs().amax(-1, keepdim=True).clamp_min(1e-30) / 6))
    scaled = blocks * torch.exp2(-exponent)
    a = scaled.abs()
    wide = torch.where(a < 4, torch.round(a) + 2, torch.round(a / 2) + 4)
    codes = torch.where(a < 2, torch.round(a * 2), wide).to(torch.uint8)
    codes = (codes | (torch.signbit(scaled).to(torch.uint8) << 3)).flatten(1)
    return codes[:, ::2] | (codes[:, 1::2] << 4), (exponent + 127).to(torch.uint8).squeeze(-1)
