"""mHC against section 3.1 of deepseek-v4.md, in loops over numbers."""

from __future__ import annotations

import math

import pytest
import torch

from dsv4c.ir.op import OPS
from dsv4c.ir.types import WeightType
from dsv4c.ir.values import CONTEXTS, Weight

STREAMS, D, TOKENS = 4, 6, 3
Numbers = list[float]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def weight(values: torch.Tensor) -> Weight:
    return Weight(WeightType("f32", tuple(values.shape)), (values.float(),))


def call(op: str, *operands: object, **attrs: object) -> tuple[torch.Tensor, ...]:
    result = OPS[op].reference(CONTEXTS["exact"], *operands, **attrs)
    return result if isinstance(result, tuple) else (result,)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def sinkhorn(matrix: list[Numbers], iters: int, eps: float) -> list[Numbers]:
    """Row softmax + eps, columns, then (rows, columns) iters - 1 times."""
    n = range(len(matrix))
    peaks = [max(row) for row in matrix]
    m = [[math.exp(v - peak) for v in row] for row, peak in zip(matrix, peaks, strict=True)]
    m = [[v / sum(row) + eps for v in row] for row in m]

    def columns() -> list[Numbers]:
        sums = [sum(m[j][k] for j in n) + eps for k in n]
        return [[m[j][k] / sums[k] for k in n] for j in n]

    m = columns()
    for _ in range(iters - 1):
        m = [[v / (sum(row) + eps) for v in row] for row in m]
        m = columns()
    return m


def test_mix_is_the_projection_of_normalised_streams() -> None:
    x, fn = random(TOKENS, STREAMS, D), weight(random(24, STREAMS * D, seed=1))
    (mix,) = call("mhc_mix", x, fn, eps=1e-6)
    for t in range(TOKENS):
        v = [float(x[t, s, i]) for s in range(STREAMS) for i in range(D)]
        norm = math.sqrt(sum(value * value for value in v) / len(v) + 1e-6)
        for row in range(24):
            terms = zip(fn.components[0][row].tolist(), v, strict=True)
            wanted = sum(a * b / norm for a, b in terms)
            assert float(mix[t, row]) == pytest.approx(wanted, rel=1e-11)


@pytest.mark.parametrize("iters", [1, 20])
def test_coefficients(iters: int) -> None:
    mix = 3 * random(TOKENS, 24)
    base, scale = weight(random(24, seed=2)), weight(random(3, seed=3))
    pre, post, comb = call(
        "mhc_coefficients", mix, base, scale, streams=STREAMS, iters=iters, eps=1e-6
    )
    b, s = base.components[0].tolist(), scale.components[0].tolist()
    for t in range(TOKENS):
        m = mix[t].tolist()
        for j in range(4):
            assert float(pre[t, j]) == pytest.approx(sigmoid(m[j] * s[0] + b[j]) + 1e-6)
            assert float(post[t, j]) == pytest.approx(2 * sigmoid(m[4 + j] * s[1] + b[4 + j]))
        rows = [[m[8 + 4 * j + k] * s[2] + b[8 + 4 * j + k] for k in range(4)] for j in range(4)]
        wanted = sinkhorn(rows, iters, 1e-6)
        torch.testing.assert_close(comb[t], torch.tensor(wanted, dtype=torch.float64))


def test_sinkhorn_ends_on_columns_and_is_nearly_doubly_stochastic() -> None:
    ones = weight(torch.ones(3))
    _, _, comb = call(
        "mhc_coefficients", random(8, 24), weight(torch.zeros(24)), ones, streams=4, iters=20, eps=1e-6
    )  # fmt: skip
    assert float((comb.sum(1) - 1).abs().max()) < 2e-6
    assert float((comb.sum(2) - 1).abs().max()) < 1e-3


def test_collapse_and_head_weights() -> None:
    x, pre = random(TOKENS, STREAMS, D), random(TOKENS, STREAMS, seed=1)
    (found,) = call("mhc_collapse", x, pre)
    for t in range(TOKENS):
        for i in range(D):
            wanted = sum(float(pre[t, s] * x[t, s, i]) for s in range(STREAMS))
            assert float(found[t, i]) == pytest.approx(wanted, rel=1e-11)
    mix, base, scale = random(TOKENS, 4), weight(random(4, seed=4)), weight(torch.tensor([0.7]))
    (w,) = call("mhc_head_coefficients", mix, base, scale, eps=1e-6)
    for t in range(TOKENS):
        for j in range(4):
            b, s = float(base.components[0][j]), float(scale.components[0][0])
            assert float(w[t, j]) == pytest.approx(sigmoid(float(mix[t, j]) * s + b) + 1e-6)


def test_expand_sums_over_the_first_index_of_comb() -> None:
    x, y = random(TOKENS, STREAMS, D), random(TOKENS, D, seed=1)
    post, comb = random(TOKENS, STREAMS, seed=2), random(TOKENS, STREAMS, STREAMS, seed=3)
    (found,) = call("mhc_expand", x, y, post, comb)
    for t in range(TOKENS):
        for k in range(STREAMS):
            for i in range(D):
                mixed = sum(float(comb[t, j, k] * x[t, j, i]) for j in range(STREAMS))
                wanted = float(post[t, k] * y[t, i]) + mixed
                assert float(found[t, k, i]) == pytest.approx(wanted, rel=1e-10)


def test_all_streams_start_alike() -> None:
    x = random(TOKENS, D)
    (found,) = call("expand_streams", x, streams=4)
    assert found.shape == (TOKENS, 4, D)
    assert all(torch.equal(found[:, s], x) for s in range(4))
