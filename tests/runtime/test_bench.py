"""What `bench` refuses, and what it times, with kernels and a clock that are made up."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from dsv4c.errors import DsvError
from dsv4c.ir.cost import node_cost
from dsv4c.plan.plan import Plan
from dsv4c.runtime import bench as module
from dsv4c.runtime.bench import bench


def test_a_cpu_plan_has_no_kernels(plan: Plan) -> None:
    with pytest.raises(DsvError, match="DSV601: bench times kernels") as caught:
        bench(plan)
    assert caught.value.where == str(plan.path)


def test_each_kernel_once_with_its_bytes(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan's norms as kernels of one name: their nodes are timed together, on their operands."""
    calls: list[int] = []

    def timed(some: Sequence[module.Call]) -> float:
        for call in some:
            call()
        calls.append(len(some))
        return 2.0

    monkeypatch.setattr(module, "time_calls", timed)
    monkeypatch.setattr(module, "copy_rate", lambda: 1e9)
    monkeypatch.setattr(module, "REFERENCE", "")
    session = plan.session(2, 200)
    monkeypatch.setattr(type(plan), "session", lambda *_: session)
    monkeypatch.setattr(plan, "target", "sm_90a")
    found = bench(plan, 2, 140)
    nodes = plan.graph.nodes
    assert calls == [len(nodes)]
    assert (found.sequences, found.context, found.step_us) == (2, 140, None)
    (one,) = found.kernels
    env = {"T": 2, "R": 2, "S": 2, "P": 2}
    costs = [node_cost(node, plan.graph.types, env) for node in nodes]
    moved = sum(cost.read + cost.write for cost in costs) / len(nodes)
    assert (one.kernel, one.nodes, one.us) == ("reference", len(nodes), 2.0)
    assert one.bytes == pytest.approx(moved)
    assert one.share == pytest.approx(moved / 2e-6 / 1e9)
    assert torch.is_inference_mode_enabled() is False
