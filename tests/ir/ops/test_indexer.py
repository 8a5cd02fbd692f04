"""Lightning indexer: Hadamard, FP4, scores over visible entries, exact top-k."""

from __future__ import annotations

import math

import pytest
import torch

from dsv4c.ir.cache import CacheLayout
from dsv4c.ir.op import OPS
from dsv4c.ir.types import CacheType
from dsv4c.ir.values import CONTEXTS, State

PAGE, HEADS, D, SCALE = 32, 4, 16, 0.25
TABLE = torch.tensor([[3, 1, 6], [5, 2, 4]], dtype=torch.int32)


def call(op: str, *operands: object, **attrs: object) -> torch.Tensor:
    result = OPS[op].reference(CONTEXTS["exact"], *operands, **attrs)
    assert isinstance(result, torch.Tensor)
    return result


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def i32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def test_hadamard_is_the_sylvester_matrix() -> None:
    n = 8
    signs = [[(-1) ** (i & j).bit_count() for j in range(n)] for i in range(n)]
    matrix = torch.tensor(signs, dtype=torch.float64) / math.sqrt(n)
    x = random(3, 2, n)
    torch.testing.assert_close(call("hadamard", x), x @ matrix)


def test_fake_quant_rounds_to_mxfp4() -> None:
    """The values of deepseek-v4.md 6.5 as half a block."""
    x = [1.3, -0.9, 0.05, 0.02, -0.3, 0.54, -0.11, 0.76, 0, 0.33, -1.2, 0.16, 0.44, -0.65, 0.21, -0.05]  # fmt: skip
    y = [1.5, -1.0, 0, 0, -0.25, 0.5, -0.125, 0.75, 0, 0.375, -1.0, 0.125, 0.5, -0.75, 0.25, 0]
    found = call("fake_quant", torch.tensor([x + [0.0] * 16]), block=32)
    assert found[0].tolist() == y + [0.0] * 16


def cached() -> State:
    cache = State.allocate(CacheType(CacheLayout("f32", D, 0, PAGE)), {"N": 7}, "cpu")
    cache.buffer.copy_(random(7, PAGE, D, seed=9))
    return cache


POS = i32(2, 3, 130, 131, 383, 5, 6, 7, 8, 0)
SLOT = i32(0, 0, 0, 0, 0, 1, 1, 1, 1, -1)


def topk(scores: torch.Tensor, pos: torch.Tensor, slot: torch.Tensor, k: int) -> torch.Tensor:
    return call("topk_entries", scores, pos, slot, TABLE, ratio=4, page=PAGE, k=k)


def scores(q: torch.Tensor, weights: torch.Tensor, cache: State) -> torch.Tensor:
    return call(
        "index_scores", q, weights, cache, POS, SLOT, TABLE, ratio=4, page=PAGE, scale=SCALE
    )


def test_index_scores_in_loops() -> None:
    q, weights, cache = random(10, HEADS, D), random(10, HEADS, seed=1), cached()
    found = scores(q, weights, cache)
    assert found.shape == (10, 3 * PAGE)
    for t, (pos, slot) in enumerate(zip(POS.tolist(), SLOT.tolist(), strict=True)):
        visible = (pos + 1) // 4 if slot >= 0 else 0
        assert found[t, visible:].tolist() == [-math.inf] * (3 * PAGE - visible)
        for s in range(visible):
            key = cache.buffer[int(TABLE[slot, s // PAGE]), s % PAGE].double()
            dots = [max(float((q[t, h] * key).sum()), 0.0) for h in range(HEADS)]
            wanted = SCALE * sum(float(weights[t, h]) * dots[h] for h in range(HEADS))
            assert float(found[t, s]) == pytest.approx(wanted, rel=1e-10, abs=1e-12)


def test_a_score_that_is_no_number_is_never_chosen() -> None:
    q, weights, cache = random(10, HEADS, D), random(10, HEADS, seed=1).abs(), cached()
    cache.buffer[int(TABLE[0, 0]), 5] = torch.nan
    found = scores(q, weights, cache)
    assert not found.isnan().any()
    assert found[:5, 5].tolist() == [-math.inf] * 5
    chosen = topk(found, POS, SLOT, 96)
    assert int(TABLE[0, 0]) * PAGE + 5 not in chosen[:5].tolist()
    assert [(row >= 0).sum().item() for row in chosen[:5]] == [0, 1, 31, 32, 95]


def entry(slot: int, w: int) -> int:
    return int(TABLE[slot, w // PAGE]) * PAGE + w % PAGE


def test_topk_gives_ties_to_the_lowest_entry_and_keeps_their_order() -> None:
    row = torch.full((1, 96), -math.inf)
    row[0, [70, 3, 40, 41, 2]] = torch.tensor([5.0, 0.0, -0.0, -0.0, 0.0])
    (found,) = topk(row, i32(383), i32(1), 3).tolist()
    assert found == [entry(1, 2), entry(1, 3), entry(1, 70)]


@pytest.mark.parametrize("k", [1, 7, 96, 120])
def test_topk_against_sorting(k: int) -> None:
    """Rounded scores have many ties; some rows see few entries, one is padding."""
    values = (random(5, 96) * 3).round() / 3
    visible, slots = [96, 30, 5, 0, 0], i32(0, 1, 1, 0, -1)
    found = topk(values, i32(383, 120, 22, 2, 0), slots, k).tolist()
    for t, count in enumerate(visible):
        order = sorted(range(count), key=lambda w, t=t: (-float(values[t, w]), w))[:k]
        wanted = [entry(int(slots[t]), w) for w in sorted(order)]
        assert found[t] == wanted + [-1] * (k - len(wanted))


def test_topk_skips_scores_that_are_no_numbers() -> None:
    row = torch.full((1, 96), 9.0)
    row[0, :4] = torch.tensor([0.5, math.nan, 2.0, -1.0])
    (found,) = topk(row, i32(15), i32(0), 4).tolist()
    assert found == [entry(0, 0), entry(0, 2), entry(0, 3), -1]
    row[0, 2] = -math.inf
    assert topk(row, i32(15), i32(0), 4).tolist() == [[entry(0, 0), entry(0, 3), -1, -1]]
