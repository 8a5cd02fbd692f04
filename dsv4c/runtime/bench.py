"""Times of a decode step's kernels, each under CUDA-graph replay with the operands of a real step."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from dsv4c.errors import DsvError
from dsv4c.ir.cost import node_cost
from dsv4c.ir.graph import Node
from dsv4c.ir.op import Cost
from dsv4c.ir.values import Operand
from dsv4c.plan.plan import Plan
from dsv4c.runtime.batch import Rows, Sizes
from dsv4c.runtime.case import copied
from dsv4c.runtime.executor import REFERENCE, step_sizes
from dsv4c.runtime.session import Session

Call = Callable[[], object]
_REPLAYS = 9
_COPIED = 1 << 28


@dataclass(frozen=True, slots=True)
class KernelTime:
    """One kernel of a decode step.

    Attributes:
        kernel: its name.
        nodes: how many nodes of the step it runs.
        us: microseconds of one launch, the mean over its nodes in turn.
        bytes: that a node must move, the mean over its nodes.
        share: of the copy rate that these bytes in this time are.
    """

    kernel: str
    nodes: int
    us: float
    bytes: float
    share: float


@dataclass(frozen=True, slots=True)
class Bench:
    """A decode step of `sequences` sequences with `context` tokens each.

    Attributes:
        sequences: rows of the step.
        context: tokens before it.
        copy_rate: bytes per second, read and written, of a large copy on the device.
        step_us: microseconds of the whole step's graph; None where nodes have no kernel.
        kernels: in the order of the step.
        reference_nodes: nodes that have no kernel and are not timed.
    """

    sequences: int
    context: int
    copy_rate: float
    step_us: float | None
    kernels: tuple[KernelTime, ...]
    reference_nodes: int


class _Kept:
    """A watcher that keeps every node's operands."""

    def __init__(self) -> None:
        self.nodes: list[tuple[Node, list[Operand]]] = []

    def before(self, node: Node, operands: Sequence[Operand]) -> None:
        if node.impl != REFERENCE:
            tensors = iter(copied([one for one in operands if isinstance(one, torch.Tensor)]))
            kept = [next(tensors) if isinstance(one, torch.Tensor) else one for one in operands]
            self.nodes.append((node, kept))

    def after(self, node: Node, results: Sequence[Operand]) -> None:
        pass


def bench(plan: Plan, sequences: int = 1, context: int = 512) -> Bench:
    """Time a decode step.

    Args:
        plan: for a GPU.
        sequences: at least 1.
        context: tokens of each sequence, at least 1.

    Raises:
        DsvError: DSV601 for a `cpu` plan or without a GPU; else as `Plan.session`.
    """
    if plan.target == "cpu":
        raise DsvError(
            "DSV601",
            "bench times kernels, and a cpu plan has none",
            where=str(plan.path),
            expected="a plan for sm_90a or sm_100a",
            hint="compile with --target sm_90a",
        )
    session = plan.session(sequences, context + 2)
    draw = random.Random(0)
    for _ in range(sequences):
        ids = [draw.randrange(session.vocab_size) for _ in range(context)]
        session.prefill(session.open(), ids)
    kept = _Kept()
    batch = [Rows(slot, context, [slot], 1) for slot in range(sequences)]
    with torch.inference_mode():
        inputs = session.prepare(batch)
        session.executor.step(inputs, kept)
        return _timed(session, plan, kept, context, step_sizes(inputs))


def _timed(session: Session, plan: Plan, kept: _Kept, context: int, sizes: Sizes) -> Bench:
    executor, rows = session.executor, sizes.T
    by_kernel: dict[str, list[tuple[Node, list[Operand]]]] = {}
    for node, operands in kept.nodes:
        by_kernel.setdefault(node.impl, []).append((node, operands))
    rate, found = copy_rate(), list[KernelTime]()
    for kernel, used in by_kernel.items():
        calls: list[Call] = [
            lambda node=node, operands=operands: executor.run(node, operands, sizes)
            for node, operands in used
        ]
        us = time_calls(calls)
        costs = (node_cost(node, executor.graph.types, sizes.env) for node, _ in used)
        total = sum(costs, Cost())
        moved = (total.read + total.write) / len(used)
        found.append(KernelTime(kernel, len(used), us, moved, moved / (us * 1e-6) / rate))
    graph = session.decoder.graph(rows, sizes.P)
    step = None if graph is None else _seconds(graph.replay) * 1e6
    return Bench(rows, context, rate, step, tuple(found), plan.reference_nodes)


def copy_rate() -> float:
    """Bytes per second of a large copy on the device, read plus written."""
    parts = [torch.zeros(_COPIED, dtype=torch.uint8, device="cuda") for _ in range(4)]
    calls: list[Call] = [lambda i=i: parts[i].copy_(parts[i + 1]) for i in (0, 2)]
    return 2 * _COPIED / (time_calls(calls) * 1e-6)


def time_calls(calls: Sequence[Call]) -> float:
    """Microseconds per call: median over replays of one CUDA graph that runs `calls` in turn."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    rounds = max(1, 64 // len(calls))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(rounds):
            for call in calls:
                call()
    return _seconds(graph.replay) * 1e6 / (rounds * len(calls))


def _seconds(replay: Call) -> float:
    replay()
    found: list[float] = []
    for _ in range(_REPLAYS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        replay()
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end) * 1e-3)
    return statistics.median(found)
