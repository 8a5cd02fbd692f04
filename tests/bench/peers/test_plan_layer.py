"""A plan's layer against torch's, with the plan's weights and caches, on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import dsv4c
from dsv4c.bench.peers.plan_layer import PlanLayer, inner_layer, torch_layer, torch_weights
from dsv4c.bench.peers.transformers_layer import TransformersLayer
from dsv4c.plan.plan import Plan, load_plan
from dsv4c.runtime import chain

EXAMPLE = Path(__file__).parents[3] / "examples" / "tiny-dsv4-nvfp4"


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("plan") / "plan"
    return load_plan(dsv4c.compile(EXAMPLE, folder, target="cpu").path)


def error(layer: PlanLayer, streams: torch.Tensor) -> float:
    wanted = layer.after.double().flatten(1)
    worst = (streams.double().flatten(1) - wanted).norm(dim=1) / wanted.norm(dim=1)
    return float(worst.max())


@pytest.mark.parametrize(("kind", "gather"), [("csa", True), ("hca", False)])
def test_layers_agree(plan: Plan, kind: str, gather: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # On the CPU no node has a kernel; all of them count.
    monkeypatch.setattr(chain, "REFERENCE", "none")
    number = inner_layer(plan, kind)
    assert number is not None
    assert number == {"csa": 1, "hca": 2}[kind]
    ours = PlanLayer(plan, number, 3, 512)
    with torch.inference_mode():
        layer = torch_layer(ours, torch_weights(ours), gather)
        own = ours.choices
        other = TransformersLayer(layer, 512)
        with other.choosing(own.entries, own.experts):
            eager = other.forward(*ours.given)
        found = layer.forward(*ours.given, own.entries, own.experts)
    assert error(ours, found) < 1e-2
    assert error(ours, eager) < 1e-2
