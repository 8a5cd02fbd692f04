"""Work of a step's kernels and layers, with kernels and a clock that are made up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import small
import torch

import dsv4c
from dsv4c.bench import step as step_module
from dsv4c.bench import steps as module
from dsv4c.bench.results import Card, Time
from dsv4c.bench.step import BenchStep, layer_spans, spread_contexts
from dsv4c.ir.cost import node_cost, region_cost
from dsv4c.ir.graph import Node, Origin
from dsv4c.ir.types import WeightType
from dsv4c.plan.manifest import Kernel
from dsv4c.plan.plan import Plan
from dsv4c.runtime import chain
from dsv4c.settings import PDL

CARD = Card("H100", "2.11", 50_000_000, 3.0e12, 750e12, None)
FACTS = Kernel("reference", "all", "sm_90a", {}, "key", [], 168, 8, 1024)


@pytest.fixture
def plan(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Its nodes, torch references, pass for calls of one kernel."""
    folder = tmp_path_factory.mktemp("small")
    made = dsv4c.compile(small.write_small(folder / "model"), folder / "plan")
    monkeypatch.setattr(chain, "REFERENCE", "")
    made.manifest.kernels.append(FACTS)
    monkeypatch.setattr(made, "kernels", lambda: {"reference": lambda *tensors: None})
    return made


def test_spans_of_layers() -> None:
    nodes = [
        Node("x", (), (f"n{i}",), origin=Origin(layer))
        for i, layer in enumerate([None, 0, 0, None, 0, 1, 1, None])
    ]
    assert layer_spans(nodes) == {0: (1, 5), 1: (5, 7)}


def test_windows_end_as_often_as_in_service() -> None:
    held = spread_contexts(128, 32768)
    assert (held[0], min(held), max(held)) == (32768, 32768 - 127, 32768)
    assert len(set(held)) == 128
    for ratio in (4, 128):
        ends = [sum(one % ratio == ratio - 1 for one in held[i : i + 8]) for i in range(0, 128, 8)]
        assert sum(ends) == 128 // ratio
        assert max(ends) <= max(1, 8 // ratio)
    assert spread_contexts(4, 1) == [1, 0, 1, 0]
    assert spread_contexts(2, 0) == [0, 0]


def test_kernels_and_layers(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[int] = []
    cuts: list[Sequence[int]] = []
    overlaps: list[bool] = []

    def times(calls: Sequence[Callable[[], object]]) -> Time:
        timed.append(len(calls))
        return Time(2.0, 1.5, 2.5)

    def added(step: BenchStep, at: Sequence[int], rounds: int) -> Callable[[int, int], Time]:
        cuts.append(at)
        overlaps.append(PDL.resolve().value)
        each = 1.0 if overlaps[-1] else 1.5
        return lambda first, end: Time(each * (end - first), 0.0, 0.0)

    monkeypatch.setattr(module, "time_calls", times)
    monkeypatch.setattr(module, "launches", lambda call: 1)
    monkeypatch.setattr(module, "added_times", added)
    monkeypatch.setattr(module, "has_kernels", lambda graph: True)
    monkeypatch.setattr(step_module, "Flush", lambda: None)
    found = module.measure_step(plan, CARD, 3, 200)
    graph = plan.graph
    nodes = [node for node in graph.nodes if node.impl]
    env = {"T": 3, "R": 3, "S": 3, "P": 2}
    assert (found.sequences, found.tokens, found.context, found.reference_nodes) == (3, 3, 200, plan.reference_nodes)  # fmt: skip
    assert list(cuts[0]) == list(range(len(nodes) + 1))
    assert cuts[1] == sorted(set(cuts[1]) & set(cuts[0]))
    assert (overlaps, PDL.resolve().value) == ([True, False], True)
    assert found.time == Time(float(len(nodes)), 0.0, 0.0)
    assert found.apart == Time(1.5 * len(nodes), 0.0, 0.0)
    assert [one.apart for one in found.layers] == [
        Time(1.5 * one.kernels, 0.0, 0.0) for one in found.layers
    ]
    (one,) = found.kernels
    costs = [node_cost(node, graph.types, env) for node in nodes]
    moved = sum(cost.read + cost.write for cost in costs) / len(nodes)
    flops = sum(cost.flops for cost in costs) / len(nodes)
    assert (one.kernel, one.kind, one.nodes, one.in_step_us) == ("reference", "all", len(nodes), 1.0)  # fmt: skip
    assert (one.registers, one.spills, one.smem) == (168, 8, 1024)
    assert one.flops == pytest.approx(flops)
    assert one.bytes == pytest.approx(moved, rel=0.05)
    assert one.floor_us == pytest.approx(1e6 * one.bytes / 3e12)
    assert one.rotated == pytest.approx(one.bytes * timed[0])
    assert [(layer.layer, layer.kind) for layer in found.layers] == list(
        enumerate(["csa", "hca", "swa", "csa"])
    )
    spans = layer_spans(nodes)
    for layer in found.layers:
        first, end = spans[layer.layer]
        assert layer.kernels == layer.time.us == end - first
        cost = region_cost(graph, nodes[first:end], env)
        assert layer.flops == cost.flops
        assert layer.floor_us == pytest.approx(1e6 * layer.bytes / 3e12)


def test_a_prefill_is_cut_at_layers_only(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    cuts: list[Sequence[int]] = []

    def added(step: BenchStep, at: Sequence[int], rounds: int) -> Callable[[int, int], Time]:
        cuts.append(at)
        return lambda first, end: Time(1.0, 1.0, 1.0)

    monkeypatch.setattr(module, "time_calls", lambda calls: Time(2.0, 1.5, 2.5))
    monkeypatch.setattr(module, "launches", lambda call: 1)
    monkeypatch.setattr(module, "added_times", added)
    monkeypatch.setattr(module, "has_kernels", lambda graph: True)
    monkeypatch.setattr(step_module, "Flush", lambda: None)
    found = module.measure_step(plan, CARD, 2, 0, 64)
    nodes = [node for node in plan.graph.nodes if node.impl]
    bounds = {0, len(nodes), *(cut for span in layer_spans(nodes).values() for cut in span)}
    assert cuts == [sorted(bounds)]
    assert (found.sequences, found.tokens, found.context) == (2, 128, 0)
    assert found.kernels[0].in_step_us is None
    assert found.apart is None


def test_experts_that_were_chosen(plan: Plan) -> None:
    """Bytes follow the experts of this step, not those of even routing."""
    with torch.inference_mode():
        step = BenchStep(plan, 5, 1, 200)
    checked = 0
    for place, (node, operands) in enumerate(step.nodes):
        types = [plan.graph.types[value] for value in node.inputs]
        stacked = [one for one in types if isinstance(one, WeightType) and len(one.dims) == 3]
        if not stacked:
            continue
        indices = [one for one in operands if isinstance(one, torch.Tensor) and one.dtype.itemsize == 4 and not one.is_floating_point()]  # fmt: skip
        order, offsets = indices
        experts, k = stacked[0].dims[0], order.shape[1]
        chosen = len(set(torch.bucketize(torch.arange(5 * k), offsets.cpu(), right=True).tolist()))
        expected = experts * (1 - (1 - k / experts) ** 5)
        each = sum(one.nbytes({}) for one in stacked) / experts
        more = step.cost(place).read - node_cost(node, plan.graph.types, step.env).read
        assert more == pytest.approx((chosen - expected) * each)
        checked += 1
    assert checked >= 8
