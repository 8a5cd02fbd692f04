"""Linears, norms and moves of rows."""

from __future__ import annotations

import math

import pytest
import torch

from dsv4c.ir.op import OPS
from dsv4c.ir.types import WeightType
from dsv4c.ir.values import CONTEXTS, Weight
from dsv4c.ir.weight_codecs import dequantize, quantize


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(values: torch.Tensor) -> Weight:
    fmt = "i64" if values.dtype == torch.int64 else "f32"
    kept = values if fmt == "i64" else values.float()
    return Weight(WeightType(fmt, tuple(values.shape)), (kept,))


def call(op: str, *operands: object, **attrs: object) -> torch.Tensor:
    result = OPS[op].reference(CONTEXTS["exact"], *operands, **attrs)
    assert isinstance(result, torch.Tensor)
    return result


@pytest.mark.parametrize("fmt", ["f32", "bf16", "fp8_128", "mxfp4", "nvfp4"])
def test_linear_multiplies_by_exactly_decoded_weights(fmt: str) -> None:
    values = random(128, 256, seed=1).float()
    parts = quantize(fmt, values)
    w = Weight(WeightType(fmt, (128, 256)), parts)
    dense = dequantize(fmt, parts, (128, 256)).double()
    x = random(3, 256)
    found = call("linear", x, w)
    for t, n in ((0, 0), (1, 127), (2, 64)):
        wanted = sum(float(a * b) for a, b in zip(x[t], dense[n], strict=True))
        assert float(found[t, n]) == pytest.approx(wanted, rel=1e-10)
    torch.testing.assert_close(found, (dense @ x.T).T, rtol=1e-12, atol=1e-12)


def test_grouped_linear_gives_each_group_its_own_block() -> None:
    x, w = random(2, 3, 4), plain(random(6, 4, seed=1))
    found = call("grouped_linear", x, w)
    dense = w.components[0].double()
    for t in range(2):
        for g in range(3):
            for i in range(2):
                wanted = float((x[t, g] * dense[2 * g + i]).sum())
                assert float(found[t, 2 * g + i]) == pytest.approx(wanted, rel=1e-12)


def test_norms() -> None:
    x, w = random(2, 3, 5), plain(random(5, seed=1))
    headed, weighted = call("head_norm", x, eps=1e-2), call("rms_norm", x, w, eps=1e-2)
    for t in range(2):
        for h in range(3):
            row = x[t, h].tolist()
            scale = 1 / math.sqrt(sum(v * v for v in row) / 5 + 1e-2)
            gains = w.components[0].tolist()
            assert headed[t, h].tolist() == pytest.approx([v * scale for v in row])
            wanted = [v * scale * g for v, g in zip(row, gains, strict=True)]
            assert weighted[t, h].tolist() == pytest.approx(wanted)


def test_zeros_have_the_norm_zero() -> None:
    assert call("head_norm", torch.zeros(1, 4), eps=1e-6).tolist() == [[0.0] * 4]


def test_moves_of_rows() -> None:
    ids = torch.tensor([4, 0, 4], dtype=torch.int32)
    table = plain(random(5, 3))
    assert torch.equal(call("embed", ids, table), table.components[0][[4, 0, 4]].double())
    x = random(4, 2, 3)
    assert torch.equal(call("take_rows", x, ids[:2] - torch.tensor([1, 0])), x[[3, 0]])
    assert call("view", x, shape=(6,))[1].tolist() == x[1].flatten().tolist()
    both = call("concat", x, x[:, :1])
    assert [both[3, j].tolist() for j in range(3)] == [x[3, j].tolist() for j in (0, 1, 0)]
