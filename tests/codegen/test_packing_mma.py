"""Units of 32 rows x 64 of K: where each element lies, by the shifts and masks of the kernels."""

from __future__ import annotations

import pytest
import torch

from dsv4c.codegen import packing_mma as mma
from dsv4c.codegen.packing import packing

PLACES = [(0, 0, 0), (1, 2, 37), (2, 1, 93)]  # row group, unit, some number to pick others


def random(*shape: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw)


def word(packed: torch.Tensor) -> int:
    return int.from_bytes(bytes(packed.tolist()), "little")


def turned(value: int, right: int) -> int:
    return (value >> right | value << (32 - right)) & 0xFFFFFFFF


def column(step: int, q: int, register: int, e: int) -> int:
    return 16 * step + 8 * (register // 2) + 2 * q + e


def test_codes_of_four_bits() -> None:
    """A register is bf16 pairs times 2^-126: sign in bit 15, exponent and mantissa in bits 6 to 8."""
    codes = random(96, 96)
    packed = mma.fp4_pack(codes)
    assert packed.shape == (3, 3, 1024)
    mask = 0x81C081C0
    for group, unit, seed in PLACES:
        for a in range(2):
            for step in range(4):
                g, q = (seed + step) % 8, (seed + a) % 4
                at = a * 512 + (4 * g + q) * 16 + 4 * step
                w = word(packed[group, unit, at : at + 4])
                registers = (
                    *(w << 6 & mask, w << 2 & mask, turned(w, 4) & mask),
                    (w & 0x81808180) | (w >> 8 & 0x00400040),
                )
                for r, pair in enumerate(registers):
                    for e in range(2):
                        half = pair >> 16 * e & 0xFFFF
                        row = 32 * group + 16 * a + 8 * (r % 2) + g
                        k = 64 * unit + column(step, q, r, e)
                        code = int(codes[row, k // 2]) >> 4 * (k % 2) & 15
                        assert half == (code >> 3) << 15 | (code & 7) << 6


@pytest.mark.parametrize("shape", [(96, 96), (7, 40), (130, 512)])
def test_codes_of_four_bits_are_the_same_on_any_device(shape: tuple[int, int]) -> None:
    codes = random(*shape)
    assert torch.equal(mma.fp4_pack_torch(codes), mma.fp4_pack(codes))


def test_scales_of_sixteen() -> None:
    """Bits 4..11 and 20..27 of a word are the first step's scales of rows g and g + 8."""
    scale = random(96, 12)
    packed = mma.nvfp4_scale_pack(scale)
    assert packed.shape == (3, 3, 128)
    for group, unit, seed in PLACES:
        for a in range(2):
            for step in range(4):
                g = (seed + step) % 8
                at = g * 16 + a * 8 + step // 2 * 4
                w = turned(word(packed[group, unit, at : at + 4]), 8 * (step % 2)) & 0x0FF00FF0
                for h in range(2):
                    row = 32 * group + 16 * a + 8 * h + g
                    assert w >> (16 * h + 4) & 0xFF == int(scale[row, 4 * unit + step])


def test_scales_of_thirty_two() -> None:
    scale = random(96, 6)
    packed = mma.mxfp4_scale_pack(scale)
    assert packed.shape == (3, 3, 64)
    for group, unit, seed in PLACES:
        g = seed % 8
        for a in range(2):
            for h in range(2):
                for block in range(2):
                    row = 32 * group + 16 * a + 8 * h + g
                    found = packed[group, unit, g * 8 + a * 4 + h * 2 + block]
                    assert int(found) == int(scale[row, 2 * unit + block])


def test_codes_of_eight_bits() -> None:
    """Row g in bytes 1 and 3 of a word, row g + 8 in bytes 0 and 2."""
    codes = random(96, 192)
    packed = mma.fp8_pack(codes)
    assert packed.shape == (3, 3, 2048)
    for group, unit, seed in PLACES:
        for a in range(2):
            for step in range(4):
                g, q = (seed + step) % 8, (seed + a) % 4
                for r in range(4):
                    piece = (a * 2 + step // 2) * 512 + (4 * g + q) * 16
                    at = piece + (step % 2) * 8 + r // 2 * 4
                    for e in range(2):
                        row = 32 * group + 16 * a + 8 * (r % 2) + g
                        k = 64 * unit + column(step, q, r, e)
                        found = packed[group, unit, at + 2 * e + 1 - r % 2]
                        assert int(found) == int(codes[row, k])


def test_bf16_values() -> None:
    values = torch.arange(96 * 192).view(96, 192).to(torch.int16).view(torch.bfloat16)
    packed = mma.bf16_pack(values)
    assert packed.shape == (3, 3, 2048)
    for group, unit, seed in PLACES:
        for a in range(2):
            for step in range(4):
                g, q = (seed + step) % 8, (seed + a) % 4
                for r in range(4):
                    for e in range(2):
                        at = (a * 4 + step) * 256 + (4 * g + q) * 8 + 2 * r + e
                        row = 32 * group + 16 * a + 8 * (r % 2) + g
                        k = 64 * unit + column(step, q, r, e)
                        bits = packed.view(torch.int16)[group, unit, at]
                        assert int(bits) == int(values.view(torch.int16)[row, k])


def test_scales_of_blocks_of_128() -> None:
    """Down: one scale for both tiles of a unit. Gate and up: gate's for tile 0, up's for tile 1."""
    gate, up = random(2, 3), random(4, 3)[2:]
    packed = packing("mma_fp8+mma_fp8_scales").pack("fp8_128", "scale", [gate])
    assert packed.shape == (8, 6, 16)
    name = "gate_up_16+mma_fp8+mma_fp8_gate_up_scales"
    joined = packing(name).pack("fp8_128", "scale", [gate, up])
    assert joined.shape == (16, 6, 16)
    for unit in range(6):
        for group in range(8):
            one = int(gate[group // 4, unit // 2])
            assert packed[group, unit].tolist() == [one, one] + [0] * 14
        for group in range(16):
            pair = [int(part[group // 8, unit // 2]) for part in (gate, up)]
            assert joined[group, unit].tolist() == pair + [0] * 14
