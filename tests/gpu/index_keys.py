"""Keys and queries for cases_index_scores.py: usual, odd, at the ends of 8 bits, beyond them."""

from __future__ import annotations

import functools
import math

import torch
from harness import DEVICE

from dsv4c.codegen.kernels.index_scores import DIM, PAGE

CODES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
SPOILED = 8  # one of how many entries `spoil_some` spoils


def change_hidden(
    cache: torch.Tensor, table: torch.Tensor, needed: torch.Tensor, byte: int
) -> None:
    """All bytes of entries behind the last one that a slot needs, in its last page; 255s are NaN."""
    for slot, count in enumerate(needed.tolist()):
        if count % PAGE:
            page, first = cache[int(table[slot, count // PAGE])].view(torch.uint8), count % PAGE
            if cache.dtype == torch.bfloat16:
                page[first:] = byte
            else:
                page[first * 64 : PAGE * 64] = byte
                page[PAGE * 64 + first * 4 :] = byte


def spoil_some(cache: torch.Tensor, used: torch.Tensor) -> None:
    """Every SPOILED-th entry becomes one that does not fit 8 bits, of all kinds of scales, or NaN."""
    if cache.dtype == torch.bfloat16:
        cache[used[:, None], torch.arange(0, PAGE, SPOILED, device=DEVICE)] = math.nan
        return
    for i, scales in enumerate(((127, 120, 127, 127), (90, 90, 91, 92), (250, 3, 200, 255))):
        for entry in range(0, PAGE, SPOILED):
            at = PAGE * 64 + entry * 4
            cache[used[i::3], at : at + 4] = torch.tensor(scales, device=DEVICE).byte()


def spoil(
    q: torch.Tensor,
    weights: torch.Tensor,
    cache: torch.Tensor,
    used: torch.Tensor,
    make: torch.Generator,
) -> None:
    """NaN, infinities, zeros and extreme scales where they must stay in their row."""
    q[1::5, 3, 7] = math.nan
    q[2::5, 0, 0] = math.inf
    weights[3::5, 2] = math.nan
    weights[4::5] = 0.0
    weights[::7, 1] = -math.inf
    page = used[::3]
    if cache.dtype == torch.bfloat16:
        cache[page, 5, 9] = math.nan
        cache[page, 6, 100] = math.inf
        cache[page, 7] = 0
    else:
        scales = torch.randint(
            0, 240, (len(page), 128), generator=make, device=DEVICE, dtype=torch.uint8
        )
        scales[:, 77] = 255
        cache[page, PAGE * 64 :] = scales


def edges(q: torch.Tensor, weights: torch.Tensor, cache: torch.Tensor, used: torch.Tensor) -> None:
    """Rows at the ends of what 8 bits hold, and just beyond; sums of most and least bits."""
    power = torch.exp2(-torch.arange(4, device=DEVICE).float()).repeat_interleave(32)
    q[0::4, 0] = 6 * power  # blocks 1, 2, 4 and 8 times smaller
    q[0::4, 1], q[0::4, 2] = 6, -6
    q[0::4, 3, 32:] *= 2.0**-9  # one block beyond them
    q[1::4, 4], q[1::4, 5] = 0, 0
    q[1::4, 4, 0], q[1::4, 4, 1:] = 6, 0.75  # one large product and many small ones
    q[1::4, 5, 127] = 2.0**-30
    q[2::4, 6] *= 2.0**33
    q[2::4, 7] *= 2.0**-40
    weights[0::4, 4], weights[1::4, 4] = 2.0**-100, 3 * 2.0**-140
    weights[2::4, 4], weights[3::4, 4] = -(2.0**60), 2.0**20
    code = torch.randint(0, 256, (32, 64), device=DEVICE, dtype=torch.uint8)
    code[0], code[1], code[2], code[3] = 0x77, 0xFF, 0x88, 0x00
    code[4], code[4, 0] = 0x11, 0x17
    scale = torch.full((32, 4), 127, device=DEVICE, dtype=torch.uint8)
    step = torch.tensor([0, 1, 2, 3], device=DEVICE, dtype=torch.uint8)
    scale[:4], scale[4], scale[5] = 127 - step, 127 - step, 127 + step
    scale[6], scale[7, 2], scale[8], scale[9], scale[10], scale[11] = 124, 123, 96, 95, 159, 160
    cache[used[::2], : PAGE * 64] = code.view(-1)
    # every other page has only rows that 8 bits hold
    cache[used[::4], PAGE * 64 :] = scale.clamp(124, 127).view(-1)
    cache[used[2::4], PAGE * 64 :] = scale.view(-1)


def sums(q: torch.Tensor) -> None:
    """Heads whose whole numbers add up to 4032, to the next number, and to the most, of either sign."""
    token = torch.arange(q.shape[0], device=DEVICE) % 8
    row = torch.zeros(8, DIM, device=DEVICE)
    row[:2, :42], row[2:4, :42] = 6, -6  # 96 as a whole number
    row[1, 42], row[3, 42] = 1 / 16, -1 / 16
    row[4], row[5], row[6, ::2], row[6, 1::2] = 6, -6, 6, -6
    real = token < 7
    q[real, 5] = row[token[real]]


def every_code(
    q: torch.Tensor, weights: torch.Tensor, cache: torch.Tensor, pages: torch.Tensor
) -> None:
    """Token t sees dim t of each key as its score; entry s has the scale byte s, and all codes."""
    q.zero_()
    weights.zero_()
    token = torch.arange(q.shape[0], device=DEVICE)
    q[token, 0, token], q[token, 1, token] = 1, -1
    weights[:, 0], weights[:, 1] = 1, -1
    entry = torch.arange(len(pages) * PAGE, device=DEVICE)
    code = (token[None] + entry[:, None]) % 16
    packed = (code[:, 1::2] * 16 + code[:, ::2]).to(torch.uint8)
    scale = entry[:, None].expand(-1, 4).to(torch.uint8)
    cache[pages, : PAGE * 64] = packed.view(len(pages), -1)
    cache[pages, PAGE * 64 :] = scale.reshape(len(pages), -1)


@functools.cache
def values() -> torch.Tensor:
    """Of the 16 codes."""
    return torch.tensor([*CODES, *(-x for x in CODES)], device=DEVICE)


def rounded(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes [n, 128] and exponents [n, 4]: the largest of 32 is at most 6."""
    blocks = x.view(-1, 4, 32)
    exponent = torch.ceil(torch.log2(blocks.abs().amax(-1) / 6)).int()
    middles = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], device=DEVICE)
    scaled = blocks * torch.exp2(-exponent.float())[..., None]
    code = torch.bucketize(scaled.abs(), middles) + 8 * (scaled < 0)
    return code.view(-1, DIM), exponent


def decoded(cache: torch.Tensor, pages: torch.Tensor) -> torch.Tensor:
    """Keys f32 [pages * 32, 128]."""
    if cache.dtype == torch.bfloat16:
        return cache[pages].float().view(-1, DIM)
    data = cache[pages]
    packed, scale = data[:, : PAGE * 64], data[:, PAGE * 64 :]
    code = torch.stack([packed & 15, packed >> 4], -1).view(-1, DIM).long()
    value = values()[code]
    power = torch.where(scale == 255, math.nan, torch.exp2(scale.double() - 127)).float()
    return value * power.view(-1, 4, 1).expand(-1, -1, 32).reshape(-1, DIM)
