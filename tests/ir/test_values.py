"""Weights as values."""

from __future__ import annotations

import pytest
import torch

from dsv4c.ir import values
from dsv4c.ir.types import WeightType
from dsv4c.ir.values import Weight


def test_experts_of_a_large_weight_are_decoded_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, (4, 6, 32), dtype=torch.uint8, generator=draw)
    scales = torch.randint(8, 120, (4, 6, 4), dtype=torch.uint8, generator=draw)
    stored = (codes, scales, torch.tensor([0.5, 1.0, 3.0, 0.25]))
    small = Weight(WeightType("nvfp4", (4, 6, 64)), stored)
    wanted = small.dense(torch.float64)
    assert torch.equal(small.expert(2, torch.float64), wanted[2])
    monkeypatch.setattr(values, "_KEPT_EXPERTS", 100)
    large = Weight(WeightType("nvfp4", (4, 6, 64)), stored)
    for number in range(4):
        assert torch.equal(large.expert(number, torch.float64), wanted[number])
    assert not large._dense  # pyright: ignore[reportPrivateUsage]
