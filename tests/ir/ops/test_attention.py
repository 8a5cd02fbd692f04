"""Where entries lie, inserts, gathers, softmax with a sink: against loops over tokens."""

from __future__ import annotations

import math

import pytest
import torch

from dsv4c.ir.cache import CacheLayout
from dsv4c.ir.op import OPS
from dsv4c.ir.types import CacheType, WeightType
from dsv4c.ir.values import CONTEXTS, State, Weight

RING, WINDOW = 256, 128
TABLE = torch.tensor([[7, 2, 9], [4, 11, 0], [5, 6, 3]], dtype=torch.int32)


def call(op: str, *operands: object, **attrs: object) -> torch.Tensor:
    result = OPS[op].reference(CONTEXTS["exact"], *operands, **attrs)
    assert isinstance(result, torch.Tensor)
    return result


def i32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# positions at the edges of windows of 4, 128 and the ring; a padded row at the end
POS = i32(0, 2, 3, 4, 126, 127, 128, 131, 255, 256, 300, 383, 0)
SLOT = i32(0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, -1)


def test_window_slots() -> None:
    found = call("window_slots", POS, SLOT, ring=RING).tolist()
    for index, pos, slot in zip(found, POS.tolist(), SLOT.tolist(), strict=True):
        assert index == (-1 if slot < 0 else slot * RING + pos % RING)


def test_window_entries() -> None:
    found = call("window_entries", POS, SLOT, ring=RING, window=WINDOW).tolist()
    for row, pos, slot in zip(found, POS.tolist(), SLOT.tolist(), strict=True):
        seen = [slot * RING + p % RING for p in range(max(0, pos - WINDOW + 1), pos + 1)]
        wanted = seen if slot >= 0 else []
        assert row == wanted + [-1] * (WINDOW - len(wanted))


@pytest.mark.parametrize("ratio", [4, 128])
def test_entry_slots(ratio: int) -> None:
    page = 128 // ratio
    found = call("entry_slots", POS, SLOT, TABLE, ratio=ratio, page=page).tolist()
    for index, pos, slot in zip(found, POS.tolist(), SLOT.tolist(), strict=True):
        entry, ends = pos // ratio, pos % ratio == ratio - 1
        wanted = int(TABLE[slot, entry // page]) * page + entry % page
        assert index == (wanted if ends and slot >= 0 else -1)


@pytest.mark.parametrize("ratio", [4, 128])
def test_visible_entries(ratio: int) -> None:
    """Entry w is visible iff w < (t + 1) // ratio: the one that ends at t is."""
    page = 128 // ratio
    found = call("visible_entries", POS, SLOT, TABLE, ratio=ratio, page=page).tolist()
    for row, pos, slot in zip(found, POS.tolist(), SLOT.tolist(), strict=True):
        count = (pos + 1) // ratio if slot >= 0 else 0
        seen = [int(TABLE[slot, w // page]) * page + w % page for w in range(count)]
        assert row == seen + [-1] * (3 * page - count)


def test_a_completed_entry_is_visible_where_it_was_put() -> None:
    pos, slot = i32(3, 7, 127, 255), i32(0, 1, 2, 0)
    put = call("entry_slots", pos, slot, TABLE, ratio=4, page=32)
    seen = call("visible_entries", pos, slot, TABLE, ratio=4, page=32)
    last = [max(i for i, index in enumerate(row) if index >= 0) for row in seen.tolist()]
    assert put.tolist() == [int(seen[t, i]) for t, i in enumerate(last)]


@pytest.mark.parametrize(
    ("fmt", "rope", "exact"), [("f32", 0, True), ("bf16", 64, False), ("fp8", 64, False)]
)
def test_insert_then_gather(fmt: str, rope: int, exact: bool) -> None:
    cache = State.allocate(CacheType(CacheLayout(fmt, 128, rope, 32)), {"N": 3}, "cpu")
    rows = random(4, 128).float()
    assert OPS["insert_rows"].reference(CONTEXTS["plan"], cache, rows, i32(70, -1, 0, 33)) == ()
    index = torch.tensor([[33, 70], [-1, 0]], dtype=torch.int32)
    found = call("gather_rows", cache, index, width=128)
    wanted = torch.stack((rows[3], rows[0], torch.zeros(128), rows[2])).view(2, 2, 128)
    tolerance = 0.0 if exact else 2**-4 if fmt == "fp8" else 2**-8
    torch.testing.assert_close(found.float(), wanted, rtol=tolerance, atol=tolerance * 0.1)
    assert int(call("gather_rows", cache, i32(1)[None], width=128).count_nonzero()) == 0


def softmax_with_sink(scores: list[float], sink: float) -> list[float]:
    weights = [math.exp(s) if s > -math.inf else 0.0 for s in scores]
    total = sum(weights) + math.exp(sink)
    return [w / total for w in weights]


def test_attention_in_loops() -> None:
    q, rows = random(2, 3, 8), random(2, 5, 8, seed=1)
    index = torch.tensor([[4, 0, 9, -1, -1], [1, 2, 3, 4, 5]], dtype=torch.int32)
    sink = Weight(WeightType("f32", (3,)), (torch.tensor([-2.0, 0.5, 3.0]),))
    scores = call("attention_scores", q, rows, index, scale=8**-0.5)
    probs = call("sink_softmax", scores, sink)
    o = call("attention_values", probs, rows)
    for t in range(2):
        for h in range(3):
            dots = [
                float((q[t, h] * rows[t, j]).sum()) / math.sqrt(8)
                if index[t, j] >= 0
                else -math.inf
                for j in range(5)
            ]
            assert scores[t, h].tolist() == pytest.approx(dots)
            p = softmax_with_sink(dots, float(sink.components[0][h]))
            assert probs[t, h].tolist() == pytest.approx(p)
            assert sum(p) < 1
            wanted = [sum(p[j] * float(rows[t, j, c]) for j in range(5)) for c in range(8)]
            assert o[t, h].tolist() == pytest.approx(wanted)


def test_large_scores_do_not_overflow_and_the_sink_is_not_scaled() -> None:
    sink = Weight(WeightType("f32", (1,)), (torch.tensor([1000.0]),))
    found = call("sink_softmax", torch.tensor([[[1000.0, 999.0]]]), sink)
    total = 2 + math.exp(-1)
    assert found[0, 0].tolist() == pytest.approx([1 / total, math.exp(-1) / total])


def test_a_row_without_valid_entries_gives_zeros() -> None:
    """A padded row attends nothing: all its weight goes to the sink."""
    index = torch.full((1, 4), -1, dtype=torch.int32)
    sink = Weight(WeightType("f32", (2,)), (torch.tensor([0.0, -30.0]),))
    scores = call("attention_scores", random(1, 2, 8), random(1, 4, 8), index, scale=1.0)
    probs = call("sink_softmax", scores, sink)
    assert probs.tolist() == [[[0.0] * 4, [0.0] * 4]]
    o = call("attention_values", probs, torch.zeros(1, 4, 8))
    assert o.tolist() == [[[0.0] * 8, [0.0] * 8]]


def test_what_a_cache_holds_behind_invalid_entries_does_not_matter() -> None:
    """A poisoned page 0, which index -1 would reach if it were not masked."""
    cache = State.allocate(CacheType(CacheLayout("bf16", 8, 0, 4)), {"N": 2}, "cpu")
    cache.buffer[0] = torch.nan
    cache.buffer[1] = 1.0
    index = torch.tensor([[4, -1], [-1, -1]], dtype=torch.int32)
    rows = call("gather_rows", cache, index, width=8)
    sink = Weight(WeightType("f32", (1,)), (torch.zeros(1),))
    scores = call("attention_scores", torch.zeros(2, 1, 8), rows, index, scale=1.0)
    o = call("attention_values", call("sink_softmax", scores, sink), rows)
    assert o[:, 0].tolist() == [[0.5] * 8, [0.0] * 8]
