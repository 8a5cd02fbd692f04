"""Kernels cut out of a plan run alone on the GPU, and the plans agree node by node."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from dsv4c.plan.plan import Plan, load_plan
from dsv4c.runtime.case import capture, write_case
from dsv4c.runtime.compare import compare

pytestmark = pytest.mark.gpu
PLANS = Path(__file__).parents[2] / ".build" / "gpu" / "plans"


@pytest.fixture(scope="module")
def gpu() -> Plan:
    return load_plan(PLANS / "sm_90a")


def tokens(plan: Plan, count: int) -> list[int]:
    draw = random.Random(0)
    return [draw.randrange(plan.manifest.model.vocab_size) for _ in range(count)]


def test_every_kernel_runs_alone(gpu: Plan, tmp_path: Path) -> None:
    for kernel in gpu.manifest.kernels:
        session = gpu.session(max_sequences=1, max_tokens=256)
        captured = capture(session, kernel.nodes[0], tokens(gpu, 200), decode=False)
        folder = tmp_path / kernel.name
        write_case(folder, gpu, captured)
        command = [sys.executable, str(folder / "run.py")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.splitlines()[-1] == "within every bound"


def test_a_plan_on_the_gpu_computes_what_the_cpu_plan_does(gpu: Plan) -> None:
    cpu = load_plan(PLANS / "cpu")
    sessions = [plan.session(max_sequences=1, max_tokens=256) for plan in (cpu, gpu)]
    found = compare(sessions[0], sessions[1], tokens(gpu, 200))
    assert [(one.value, one.ratio) for one in found if not one.ok] == []
    assert found[-1].value == "head.logits"
