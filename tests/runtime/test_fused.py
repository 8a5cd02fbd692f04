"""The plan against the unfused graph of the same model: not one bit differs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from dsv4c.ir.interp import run_graph
from dsv4c.ir.text import parse
from dsv4c.ir.types import CacheType, RowsType
from dsv4c.ir.values import Operand, State
from dsv4c.plan.plan import Plan
from dsv4c.runtime.batch import Rows
from dsv4c.runtime.executor import Outputs
from dsv4c.runtime.session import Session


class Unfused:
    """Runs the graph that the model's builder made, in the state of a session of its own."""

    def __init__(self, plan: Plan, slots: int, pages: int) -> None:
        text = (plan.path / "ir" / "00_model.ir").read_text(encoding="utf-8")
        self.graph = parse(text)
        self.states: dict[str, State] = {}
        for name in self.graph.states:
            type_ = self.graph.types[name]
            assert isinstance(type_, CacheType | RowsType)
            self.states[name] = State.allocate(type_, {"S": slots, "N": pages}, "cpu")
        self.constants: dict[str, Operand] = {**plan.weights(), **self.states}

    def step(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.inference_mode():
            logits = run_graph(self.graph, {**self.constants, **inputs})[self.graph.outputs[0]]
        assert isinstance(logits, torch.Tensor)
        return logits


def record_inputs(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, torch.Tensor]]:
    """The inputs of every step that the session will run."""
    seen: list[dict[str, torch.Tensor]] = []
    step = session.executor.step

    def recorded(inputs: dict[str, torch.Tensor], *rest: object) -> Outputs:
        seen.append({name: tensor.clone() for name, tensor in inputs.items()})
        return step(inputs, *rest)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(session.executor, "step", recorded)
    return seen


@pytest.mark.parametrize("kv_cache", ["f32", "bf16", "fp8"])
def test_plan_equals_the_unfused_graph(
    plan_for: Callable[[str], Plan],
    tokens: Callable[[int, int], list[int]],
    monkeypatch: pytest.MonkeyPatch,
    kv_cache: str,
) -> None:
    plan = plan_for(kv_cache)
    session = plan.session(max_sequences=3, max_tokens=300)
    unfused = Unfused(plan, 3, session.slots.pages)
    assert len(plan.graph.nodes) < len(unfused.graph.nodes)
    steps = record_inputs(session, monkeypatch)
    a, b, c = (session.open() for _ in range(3))
    got = [session.prefill(a, tokens(260, 1), return_logits="all")]
    got.append(session.step([Rows(b, 0, tokens(127, 2), 127), Rows(a, 260, tokens(3, 3), 2)]))
    got += [session.decode([b, a], [9, 8]), session.decode([a, c, b], [7, 6, 5])]
    for inputs, logits in zip(steps, got, strict=True):
        assert torch.equal(unfused.step(inputs), logits)
    states = session.executor.states
    assert states.keys() == unfused.states.keys()
    for name, state in states.items():
        assert torch.equal(state.buffer, unfused.states[name].buffer), name


@pytest.mark.parametrize("kv_cache", ["f32", "bf16", "fp8"])
def test_every_layer_is_fused(plan_for: Callable[[str], Plan], kv_cache: str) -> None:
    plan = plan_for(kv_cache)
    kinds = ("qnorm_rope_kv_insert", "sparse_attention", "inverse_rope_wo_a")
    kinds += ("router", "moe_gate_up", "moe_down")
    for layer in range(plan.manifest.model.layers):
        here = [n.kind for n in plan.graph.nodes if n.body is not None and n.origin.layer == layer]
        assert [here.count(f"fused.{kind}") for kind in kinds] == [1] * len(kinds), layer
