"""RoPE: frequencies of deepseek-v4.md 1.2, rotation of interleaved pairs on the last dims."""

from __future__ import annotations

import cmath
import math

import pytest
import torch

from dsv4c.ir.op import OPS, full_attrs
from dsv4c.ir.ops.rope import rope_frequencies
from dsv4c.ir.values import CONTEXTS

YARN = {"dims": 64, "theta": 160000.0, "factor": 16.0, "original": 65536}


def angles(pos: list[int], **attrs: float) -> torch.Tensor:
    spec = OPS["rope_angles"]
    full = full_attrs(spec, attrs)
    result = spec.reference(CONTEXTS["plan"], torch.tensor(pos, dtype=torch.int32), **full)
    assert isinstance(result, torch.Tensor)
    return result


def rope(x: torch.Tensor, table: torch.Tensor, inverse: bool = False) -> torch.Tensor:
    result = OPS["rope"].reference(CONTEXTS["exact"], x, table, inverse=inverse)
    assert isinstance(result, torch.Tensor)
    return result


def yarn(i: int) -> float:
    """Frequency of pair i, from the text."""
    base = 160000 ** (-2 * i / 64)
    ramp = min(max((i - 15) / 10, 0), 1)
    return base / 16 * ramp + base * (1 - ramp)


def test_yarn_frequencies() -> None:
    found = rope_frequencies(64, 160000, 16, 65536, 32, 1).tolist()
    assert found == pytest.approx([yarn(i) for i in range(32)], rel=2e-7)
    given = {0: 1, 1: 0.687656, 2: 0.472871, 3: 0.325172, 15: 0.00363554, 16: 0.00226562}
    given |= {24: 1.95313e-5, 25: 5.37231e-6, 31: 5.68053e-7}
    for pair, value in given.items():
        assert found[pair] == pytest.approx(value, rel=3e-6), pair


def test_main_frequencies() -> None:
    found = rope_frequencies(64, 10000, 1, 0, 32, 1).tolist()
    assert found[1] == pytest.approx(0.749894, rel=2e-6)
    assert found == pytest.approx([10000 ** (-2 * i / 64) for i in range(32)], rel=2e-7)


@pytest.mark.parametrize("attrs", [{"dims": 64, "theta": 10000.0}, YARN])
def test_angles_are_cos_then_sin(attrs: dict[str, float]) -> None:
    positions = [0, 1, 127, 65536, 1048575]
    found = angles(positions, **attrs)
    assert found.shape == (5, 64)
    assert found.dtype == torch.float32
    for row, pos in zip(found.double(), positions, strict=True):
        for i in range(32):
            f = yarn(i) if len(attrs) > 2 else 10000 ** (-2 * i / 64)
            # pos * f is rounded to fp32: half an ulp of the product, and of f before
            slack = 2e-7 * max(pos * f, 1)
            assert float(row[i]) == pytest.approx(math.cos(pos * f), abs=slack)
            assert float(row[32 + i]) == pytest.approx(math.sin(pos * f), abs=slack)


def test_an_offset_shifts_positions_and_stops_at_zero() -> None:
    shifted = angles([0, 2, 3, 7], dims=8, theta=10000.0, offset=-3)
    assert torch.equal(shifted, angles([0, 0, 0, 4], dims=8, theta=10000.0))


@pytest.mark.parametrize("shape", [(3, 24), (3, 5, 24)])
def test_pairs_of_the_last_dims_are_rotated(shape: tuple[int, ...]) -> None:
    """As complex numbers: (x[2i] + j x[2i+1]) * exp(j angle)."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theta = torch.tensor([[0.3, 1.2, -2.0, 0.0]] * 3, dtype=torch.float64)
    table = torch.cat((theta.cos(), theta.sin()), -1)
    found = rope(x, table)
    assert torch.equal(found[..., :16], x[..., :16])
    for turned, row in zip(found.reshape(-1, 24).tolist(), x.reshape(-1, 24).tolist(), strict=True):
        for i, angle in enumerate(theta[0].tolist()):
            a, b = row[16 + 2 * i], row[17 + 2 * i]
            value = complex(a, b) * cmath.exp(1j * angle)
            assert turned[16 + 2 * i] == pytest.approx(value.real, abs=1e-12)
            assert turned[17 + 2 * i] == pytest.approx(value.imag, abs=1e-12)


def test_inverse_undoes_it() -> None:
    x = torch.randn(4, 2, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    theta = torch.randn(4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    table = torch.cat((theta.cos(), theta.sin()), -1)
    torch.testing.assert_close(rope(rope(x, table), table, inverse=True), x, rtol=0, atol=1e-14)


def test_every_token_has_its_own_angles() -> None:
    x = torch.ones(2, 8)
    both = rope(x, angles([3, 11], dims=8, theta=10000.0))
    for i, pos in enumerate((3, 11)):
        alone = rope(x[i : i + 1], angles([pos], dims=8, theta=10000.0))
        assert torch.equal(both[i], alone[0])
