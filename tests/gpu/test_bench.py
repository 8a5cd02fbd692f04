"""A bench of the bundled model's plan on the GPU. `scripts/build_gpu_plans.py` makes the plan."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dsv4c.bench.results import Bench, encode, read_bench
from dsv4c.bench.run import Wanted, run_bench
from dsv4c.plan.plan import load_plan

pytestmark = pytest.mark.gpu
PLAN = Path(__file__).parents[2] / ".build" / "gpu" / "plans" / "sm_90a"


@pytest.fixture(scope="module")
def found() -> Bench:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    return run_bench(load_plan(PLAN), Wanted([1, 4], 300, 1024))


def test_the_card(found: Bench) -> None:
    """An H100 copies at 2.9 to 3.0 TB/s and multiplies bf16 at 650 to 800 TFLOP/s."""
    assert 1e12 < found.card.copy < 8e12
    assert 2e14 < found.card.bf16 < 2.5e15
    assert found.card.fp8 is None or found.card.fp8 > 1.3 * found.card.bf16


def test_steps(found: Bench) -> None:
    assert [(one.sequences, one.tokens) for one in found.steps] == [(1, 1), (4, 4), (2, 1024)]
    for step in found.steps:
        assert step.time is not None
        assert step.time.low <= step.time.us <= step.time.high
        assert step.launches >= sum(one.nodes for one in step.kernels)
        layers = sum(one.time.us for one in step.layers)
        assert 0.5 * step.time.us < layers < 1.1 * step.time.us
        assert all(one.ratio > 0.9 for one in step.layers)
    assert all(one.apart is not None for one in (*found.steps[:2], *found.steps[0].layers))
    assert found.steps[0].saved_us is not None
    assert found.steps[0].saved_us > 0


def test_kernels(found: Bench) -> None:
    """In a decode step, what the kernels add makes the step."""
    for step in found.steps[:2]:
        assert step.time is not None
        inside = sum(one.nodes * (one.in_step_us or 0.0) for one in step.kernels)
        assert inside == pytest.approx(step.time.us, rel=0.1)
    for one in found.steps[0].kernels:
        assert one.launches >= 1
        assert one.registers > 0
        assert 0 < one.time.low <= one.time.us <= one.time.high


def test_the_document(found: Bench, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(encode(found))
    assert read_bench(path).steps == found.steps
