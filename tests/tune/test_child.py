"""What is asked of a candidate before it is timed. No GPU: kernels are functions on the host."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dsv4c.bench.results import Time
from dsv4c.tune import child
from dsv4c.tune.child import OTHER_BITS, SPOILED, Answer
from dsv4c.tune.folder import Bucket, Candidate, Shape
from dsv4c.tune.jobs import Job

SHAPE: Shape = {"depth": 8}
CANDIDATES = [Candidate("a_1", {"a": 1}, 32, 0, 0)]
BUCKET = Bucket("a", "a__key", "linears", SHAPE, 8, [4], {}, {}, "table", CANDIDATES)
JOB, PRESENT = Job(4, 0, 0), Job(4, 0, None)
TIME, BESIDE = Time(1.0, 0.9, 1.1), Time(2.0, 1.9, 2.1)
# A kernel's arguments: an input, a result, scratch.
Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]


def present(given: torch.Tensor, out: torch.Tensor, scratch: torch.Tensor) -> None:
    out.copy_(2 * given)


def other_order(given: torch.Tensor, out: torch.Tensor, scratch: torch.Tensor) -> None:
    scratch.copy_(given)
    out.copy_(scratch + scratch)


def other_bits(given: torch.Tensor, out: torch.Tensor, scratch: torch.Tensor) -> None:
    out.copy_(2 * given)
    out[0] = torch.nextafter(out[0], torch.tensor(9.0))


def other_zero(given: torch.Tensor, out: torch.Tensor, scratch: torch.Tensor) -> None:
    out.copy_(2 * given)
    out[1] = -out[1]


def leaves_some(given: torch.Tensor, out: torch.Tensor, scratch: torch.Tensor) -> None:
    out[:-1] = 2 * given[:-1]


def spoils(given: torch.Tensor, out: torch.Tensor, scratch: torch.Tensor) -> None:
    out.copy_(2 * given)
    given.zero_()


def fails(given: torch.Tensor, out: torch.Tensor, scratch: torch.Tensor) -> None:
    raise RuntimeError("illegal instruction\nand more")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(child, "Loop", lambda calls: SimpleNamespace(time=lambda: TIME))
    monkeypatch.setattr(child, "time_beside", lambda loop, other: (TIME, BESIDE))
    monkeypatch.setattr(child, "input_sets", lambda given, moved, shared: [given])
    node = SimpleNamespace(impl="a", outputs=("y",), scratch=("s",))
    given = torch.tensor([1.0, 0.0, 3.0, 0.0])
    # A NaN, and so its double, of the byte that results hold at first.
    given.view(torch.int32)[-1] = -1
    step = SimpleNamespace(
        nodes=[(node, [])],
        cost=lambda i: SimpleNamespace(read=1.0, write=1.0),
        arguments=lambda node, operands: [given, torch.empty(4), torch.empty(4)],
    )
    plan: Any = SimpleNamespace(kernels=lambda: {"a": present})
    made: Any = step
    return child._Bench(plan, made, BUCKET)  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(
    ("kernel", "answer"),
    [
        (present, Answer(TIME, beside=BESIDE)),
        (other_order, Answer(TIME, beside=BESIDE)),
        (other_bits, Answer(None, OTHER_BITS)),
        (other_zero, Answer(None, OTHER_BITS)),
        (leaves_some, Answer(None, OTHER_BITS)),
        (spoils, Answer(None, SPOILED, True)),
        (fails, Answer(None, "illegal instruction", True)),
    ],
)
def test_a_candidate_is_timed_only_if_it_gives_the_present_tiles_bits(
    kernel: Kernel, answer: Answer, bench: Any
) -> None:
    assert bench.answer(JOB, {"a_1": kernel}) == answer


def test_the_plans_own_kernel_is_timed(bench: Any) -> None:
    assert bench.answer(PRESENT, {}) == Answer(TIME)
