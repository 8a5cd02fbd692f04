"""Router, experts and SwiGLU against section 3.8 of deepseek-v4.md, in loops."""

from __future__ import annotations

import math

import pytest
import torch

from dsv4c.ir.op import OPS
from dsv4c.ir.types import WeightType
from dsv4c.ir.values import CONTEXTS, Weight


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weight(values: torch.Tensor) -> Weight:
    fmt = "i64" if values.dtype == torch.int64 else "f32"
    kept = values if fmt == "i64" else values.float()
    return Weight(WeightType(fmt, tuple(values.shape)), (kept,))


def call(op: str, *operands: object, **attrs: object) -> tuple[torch.Tensor, ...]:
    result = OPS[op].reference(CONTEXTS["exact"], *operands, **attrs)
    return result if isinstance(result, tuple) else (result,)


def score(logit: float) -> float:
    return math.sqrt(logit if logit > 20 else math.log1p(math.exp(logit)))


def silu(value: float) -> float:
    return value / (1 + math.exp(-value))


def test_learned_routing_chooses_with_the_bias_and_weighs_without() -> None:
    logits, bias = 4 * random(6, 8), weight(2 * random(8, seed=1))
    experts, weights = call("route_learned", logits, bias, k=3, scale=2.5)
    b = bias.components[0].tolist()
    differs = False
    for t in range(6):
        scores = [score(value) for value in logits[t].tolist()]
        biased = [s + add for s, add in zip(scores, b, strict=True)]
        chosen = sorted(range(8), key=lambda e: -biased[e])[:3]
        differs |= set(chosen) != set(sorted(range(8), key=lambda e: -scores[e])[:3])
        assert experts[t].tolist() == chosen
        total = sum(scores[e] for e in chosen)
        assert weights[t].tolist() == pytest.approx([2.5 * scores[e] / total for e in chosen])
    assert differs, "the bias must change some choice for the test to mean anything"


def test_ties_go_to_the_lowest_expert() -> None:
    experts, weights = call(
        "route_learned", torch.zeros(1, 6), weight(torch.tensor([0.0, 1, 0, 1, 1, 0])), k=4, scale=1.0
    )  # fmt: skip
    assert experts.tolist() == [[1, 3, 4, 0]]
    assert weights.tolist() == [pytest.approx([0.25] * 4)]


def test_hash_routing_takes_the_experts_of_the_token() -> None:
    logits, ids = random(4, 8), torch.tensor([3, 0, 3, 1], dtype=torch.int32)
    table = torch.tensor([[1, 2], [7, 0], [4, 5], [6, 3]])
    experts, weights = call("route_hash", logits, weight(table), ids, k=2, scale=1.5)
    for t, token in enumerate(ids.tolist()):
        chosen = table[token].tolist()
        assert experts[t].tolist() == chosen
        scores = [score(float(logits[t, e])) for e in chosen]
        assert weights[t].tolist() == pytest.approx([1.5 * s / sum(scores) for s in scores])


@pytest.mark.parametrize("logit", [-60.0, -1.0, 0.0, 19.9, 20.1, 90.0])
def test_scores_at_the_ends_of_the_range(logit: float) -> None:
    """One expert of two: its weight is its share, also where exp over- or underflows."""
    _, weights = call(
        "route_learned", torch.tensor([[logit, 1.0]]), weight(torch.zeros(2)), k=2, scale=1.0
    )
    shares = sorted((score(logit), score(1.0)), reverse=True)
    assert weights[0].tolist() == pytest.approx([s / sum(shares) for s in shares], rel=1e-6)


def test_pairs_are_grouped_by_expert_in_the_order_of_tokens() -> None:
    experts = torch.tensor([[2, 0], [4, 2], [0, 2]], dtype=torch.int32)
    order, offsets = call("group_tokens", experts, bounds=6)
    assert order.flatten().tolist() == [1, 4, 0, 3, 5, 2]
    assert offsets.tolist() == [0, 2, 2, 5, 5, 6]


@pytest.mark.parametrize("per_choice", [False, True])
def test_expert_linear(per_choice: bool) -> None:
    w, experts = weight(random(5, 3, 4, seed=1)), torch.tensor([[0, 4], [2, 2], [4, 1]])
    x = random(3, 2, 4) if per_choice else random(3, 4)
    groups = call("group_tokens", experts.int(), bounds=6)
    (found,) = call("expert_linear", x, w, *groups)
    dense = w.components[0].double()
    for t in range(3):
        for j in range(2):
            row = x[t, j] if per_choice else x[t]
            for n in range(3):
                wanted = float((row * dense[experts[t, j], n]).sum())
                assert float(found[t, j, n]) == pytest.approx(wanted, rel=1e-11)


def test_swiglu_clamps_the_gate_above_and_up_on_both_sides() -> None:
    gate = torch.tensor([[-25.0, 9.0, 10.0, 11.0, 1e4]])
    up = torch.tensor([[12.0, -12.0, 10.0, -3.0, 0.5]])
    (found,) = call("swiglu", gate, up, limit=10.0)
    wanted = [silu(-25) * 10, silu(9) * -10, silu(10) * 10, silu(10) * -3, silu(10) * 0.5]
    assert found[0].tolist() == pytest.approx(wanted, rel=1e-12)


def test_routed_swiglu_weighs_before_w2() -> None:
    gate, up, weights = random(2, 3, 4), random(2, 3, 4, seed=1), random(2, 3, seed=2)
    (plain,) = call("swiglu", gate, up, limit=10.0)
    (found,) = call("routed_swiglu", gate, up, weights, limit=10.0)
    for t in range(2):
        for j in range(3):
            assert torch.equal(found[t, j], plain[t, j] * weights[t, j])


def test_combine_adds_the_chosen_experts_and_the_shared_one() -> None:
    routed, shared = random(2, 3, 4), random(2, 4, seed=1)
    (found,) = call("combine", routed, shared)
    for t in range(2):
        for i in range(4):
            wanted = sum(float(routed[t, j, i]) for j in range(3)) + float(shared[t, i])
            assert float(found[t, i]) == pytest.approx(wanted, rel=1e-12)
