"""A plan on the GPU beside the same model's `cpu` plan. `scripts/build_gpu_plans.py` makes both."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dsv4c.plan.plan import Plan, load_plan
from dsv4c.runtime.check import check
from dsv4c.runtime.sampling import Sampling
from dsv4c.tokenizer import Tokenizer

sys.path.insert(0, str(Path(__file__).parent))
import decode
import greedy

pytestmark = pytest.mark.gpu
PLANS = Path(__file__).parents[2] / ".build" / "gpu" / "plans"


@pytest.fixture(scope="module")
def gpu() -> Plan:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    return load_plan(PLANS / "sm_90a")


@pytest.fixture(scope="module")
def cpu() -> Plan:
    return load_plan(PLANS / "cpu")


def test_every_node_has_a_kernel(gpu: Plan) -> None:
    assert [node.kind for node in gpu.graph.nodes if node.by_reference] == []


@pytest.mark.parametrize("check", decode.CHECKS, ids=lambda check: check.__name__)
def test_decode_steps(gpu: Plan, check: Callable[[Plan], dict[str, Any]]) -> None:
    """As soon as every node has a kernel: a step is one graph, and nothing else happens in it."""
    if gpu.reference_nodes:
        assert gpu.session(max_sequences=2, max_tokens=256).decoder.captured == ()
        check = decode.only_references_do_more
    check(gpu)


def test_every_node_within_its_bound(gpu: Plan) -> None:
    text = (PLANS.parent / "eval.txt").read_text(encoding="utf-8")
    ids = Tokenizer.load(gpu.path).encode(text)[:700]
    checks = check(gpu.session(max_sequences=2, max_tokens=1024), ids)
    wrong = [f"{one.node} {one.ratio:.3g}" for one in checks if not one.ok]
    assert wrong == []


def test_greedy_text_matches_the_cpu_plan(gpu: Plan, cpu: Plan) -> None:
    found = greedy.summary(list(greedy.compare(cpu, gpu, tokens=24)))
    assert found["clear"] > 100
    assert found["clear_equal"] == found["clear"]


def test_drawn_text_is_that_of_the_cpu_plan(gpu: Plan, cpu: Plan) -> None:
    """From equal logits the draws are equal; theirs differ by roundings that seldom turn one."""
    tokenizer, count, equal = Tokenizer.load(cpu.path), 0, 0
    for seed, prompt in enumerate(greedy.PROMPTS[:8]):
        ids, sampling = tokenizer.encode(prompt), Sampling(0.8, top_k=50, top_p=0.95, seed=seed)
        sessions = [plan.session(max_sequences=1, max_tokens=256) for plan in (cpu, gpu)]
        slots = [session.open(sampling) for session in sessions]
        drawn = [one.start(slot, ids) for one, slot in zip(sessions, slots, strict=True)]
        for _ in range(32):
            count, equal = count + 1, equal + (drawn[0] == drawn[1])
            both = zip(sessions, slots, strict=True)
            drawn = [one.advance([slot], [drawn[0]])[0] for one, slot in both]
    print(f"{equal} of {count} draws equal")
    assert equal > 0.95 * count


def test_a_sequence_alone_and_in_a_batch(gpu: Plan) -> None:
    """Torch matrix products of the nodes without a kernel round by batch size, hence the bound."""
    text = (PLANS.parent / "eval.txt").read_text(encoding="utf-8")
    ids = Tokenizer.load(gpu.path).encode(text)
    parts = [ids[100 * i : 100 * i + 40 + 31 * i] for i in range(5)]
    together = gpu.session(max_sequences=5, max_tokens=512)
    slots = [together.open() for _ in parts]
    for slot, part in zip(slots, parts, strict=True):
        together.prefill(slot, part[:-1])
    batched = together.decode(slots, [part[-1] for part in parts])
    for part, row in zip(parts, batched, strict=True):
        alone = gpu.session(max_sequences=1, max_tokens=512)
        slot = alone.open()
        alone.prefill(slot, part[:-1])
        assert (alone.decode([slot], [part[-1]])[0] - row).abs().max() < greedy.MARGIN
