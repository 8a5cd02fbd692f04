"""The NaN guard: the first node with a value that is not finite, and whose token it is."""

from __future__ import annotations

from collections.abc import Callable

import defects
import pytest
import torch

from dsv4c.ir.values import State
from dsv4c.plan.plan import Plan
from dsv4c.runtime.guard import guard

Tokens = Callable[[int, int], list[int]]


def at(value: float, *place: int) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(made: torch.Tensor) -> torch.Tensor:
        made = made.clone()
        made[place] = value
        return made

    return change


@pytest.mark.parametrize("kv_cache", ["f32", "bf16", "fp8"])
def test_a_right_plan_makes_nothing_that_is_not_finite(
    kv_cache: str, plan_for: Callable[[str], Plan], tokens: Tokens
) -> None:
    assert guard(plan_for(kv_cache).session(1, 256), tokens(140, 0)) is None


@pytest.mark.parametrize(
    ("node", "value", "place", "position"),
    [
        ("L1.ffn.y", float("nan"), (7, 3), 7),
        ("L2.attn.o", float("inf"), (130, 1, 5), 130),
        ("L0.attn.streams", float("-inf"), (0, 2, 40), 0),
        ("L0.attn.indexer.scores", float("nan"), (9, 0), 9),
        ("head.logits", float("nan"), (3, 17), 3),
    ],
)
def test_the_first_node_its_sequence_and_position(
    node: str, value: float, place: tuple[int, ...], position: int, plan: Plan, tokens: Tokens
) -> None:
    session = plan.session(2, 256)
    session.open()
    defects.result("x", node, 0, at(value, *place)).plant(session.executor)
    found = guard(session, tokens(140, 0))
    assert found is not None
    assert (found.captured.node.name, found.output, found.index) == (node, node, place)
    assert (found.step, found.slot, found.position) == (1, 1, position)
    assert (found.value, found.count) == (str(value), 1)
    assert session.open() == 1


def test_a_step_that_is_not_the_first(plan: Plan, tokens: Tokens) -> None:
    session = plan.session(1, 256)
    steps = 0

    def late(made: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += 1
        return made * torch.nan if steps == 2 else made

    defects.result("x", "L3.ffn.y", 0, late).plant(session.executor)
    found = guard(session, tokens(20, 0))
    assert found is not None
    assert (found.step, found.slot, found.position, found.count) == (2, 0, 19, 48)


@pytest.mark.parametrize("node", ["L2.attn.q", "L1.attn.q_latent"])
def test_states_are_looked_at_where_they_were_written(
    node: str, plan: Plan, tokens: Tokens
) -> None:
    session = plan.session(3, 256)
    session.open()
    defects.result("x", node, 1, at(float("nan"), 4 if node == "L2.attn.q" else 1, 0, 0)).plant(
        session.executor
    )
    found = guard(session, tokens(140, 0))
    assert found is not None
    assert found.captured.node.name == node
    assert found.output == plan.graph.producers[node].outputs[1]
    assert (found.slot, found.position) == (1 if node != "L2.attn.q" else 4 * 128 // 640, None)
    before = [one for one in found.captured.operands if isinstance(one, State)]
    assert not any(one.buffer.isnan().any() for one in before)


def test_a_gate_that_was_not_seen_is_no_finding_but_nan_in_bytes_is(
    plan_for: Callable[[str], Plan], tokens: Tokens
) -> None:
    """0x7F is NaN in E4M3."""
    session = plan_for("fp8").session(1, 256)
    defects.result("x", "L2.attn.q", 1, at(0x7F, 0, 0)).plant(session.executor)
    found = guard(session, tokens(20, 0))
    assert found is not None
    assert (found.output, found.value, found.index[:2]) == ("L2.attn.window.1", "nan", (0, 0))
