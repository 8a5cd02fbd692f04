"""One step of a plan with operands as in service, and graphs of parts of it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TypeGuard

import torch

from dsv4c.bench.results import Time
from dsv4c.bench.timing import Call, captured, replay_rounds, spread
from dsv4c.ir.cost import node_cost, region_cost
from dsv4c.ir.graph import Graph, Node
from dsv4c.ir.op import Cost
from dsv4c.ir.types import WeightType
from dsv4c.ir.values import Operand
from dsv4c.plan.plan import Plan
from dsv4c.runtime.batch import Rows
from dsv4c.runtime.chain import Flush, Step
from dsv4c.runtime.context import fill_context
from dsv4c.runtime.slots import PAGE_TOKENS, pages_for
from dsv4c.settings import PDL

_STRIDE = 37
"""Odd: multiples of it take every place of a window."""


class BenchStep:
    """A step of several sequences whose caches hold random values.

    Args:
        plan: for this machine's GPU.
        sequences: at least 1.
        tokens: of each in this step, at least 1 and at most the plan's chunk.
        context: tokens that the first holds before it; the others up to 127 fewer, so that windows of
            the compressors end as often as in service.

    Attributes:
        nodes: those with kernels, and their operands.
        env: T, R, S and P of the step, P without the padding of the block table.

    Raises:
        DsvError: as `Plan.session`.
    """

    def __init__(self, plan: Plan, sequences: int, tokens: int, context: int) -> None:
        rows = sequences * tokens
        session = plan.session(sequences, context + tokens + 1, max_rows=rows)
        self.session, self.graph = session, session.executor.graph
        slots = fill_context(session, sequences, context)
        draw = torch.Generator().manual_seed(0)
        ids = torch.randint(session.vocab_size, (sequences, tokens), generator=draw).tolist()
        held = spread_contexts(sequences, context)
        batch = [Rows(*one, 1) for one in zip(slots, held, ids, strict=True)]
        self._step = Step(session, session.prepare(batch))
        self.nodes = self._step.nodes
        pages = pages_for(context + tokens)
        self.env = {"T": rows, "R": sequences, "S": sequences, "P": pages}

    def arguments(self, node: Node, operands: Sequence[Operand]) -> list[torch.Tensor]:
        """What the node's kernel is given."""
        return self.session.executor.arguments(node, operands, self._step.sizes)

    def prefix(self, count: int) -> Call:
        """Runs the first `count` nodes with kernels in the step's own memory, the L2 cold."""
        return partial(self._step.prefix, count, self.flush)

    def alone(self, index: int) -> None:
        """Run one of `nodes` with its own operands."""
        self._step.alone(index)

    @cached_property
    def flush(self) -> Flush:
        """Leaves nothing of the step in the L2."""
        return Flush()

    def cost(self, index: int) -> Cost:
        """Of one of `nodes`, with the experts that this step's tokens chose."""
        node, operands = self.nodes[index]
        more = _chosen(self.graph, node, operands, self.env["T"])
        return node_cost(node, self.graph.types, self.env) + Cost(read=more)

    def region(self, first: int, end: int) -> Cost:
        """Of `nodes[first:end]` as if they were one, and of the views between them."""
        part = self.nodes[first:end]
        begin, last = (self.graph.places[part[i][0].name] for i in (0, -1))
        more = sum(_chosen(self.graph, *one, self.env["T"]) for one in part)
        nodes = self.graph.nodes[begin : last + 1]
        return region_cost(self.graph, nodes, self.env) + Cost(read=more)


def spread_contexts(sequences: int, context: int) -> list[int]:
    """Tokens that each sequence holds: `context`, and up to 127 fewer at every place of a window."""
    return [context - i * _STRIDE % min(PAGE_TOKENS, context + 1) for i in range(sequences)]


def _chosen(graph: Graph, node: Node, operands: Sequence[Operand], tokens: int) -> float:
    """Bytes of the experts that were chosen, less those of as many as even routing chooses."""
    types = [graph.types[value] for value in node.inputs]
    stacked = [one for one in types if isinstance(one, WeightType) and len(one.dims) == 3]
    if not stacked:
        return 0.0
    experts = stacked[0].dims[0]
    order, offsets = (one for one in operands if _is_index(one))
    expected = experts * (1 - (1 - order.shape[1] / experts) ** tokens)
    found = int((offsets.diff() > 0).sum())
    return (found - expected) * sum(one.nbytes({}) for one in stacked) / experts


def _is_index(operand: Operand) -> TypeGuard[torch.Tensor]:
    return isinstance(operand, torch.Tensor) and operand.dtype == torch.int32


def has_kernels(graph: Graph) -> bool:
    """Whether the step can be captured."""
    return not any(node.by_reference for node in graph.nodes)


def layer_spans(nodes: Sequence[Node]) -> dict[int, tuple[int, int]]:
    """Where each layer's first node is, and what follows its last."""
    numbers = [node.origin.layer for node in nodes]
    places = {
        layer: [i for i, number in enumerate(numbers) if number == layer]
        for layer in sorted({number for number in numbers if number is not None})
    }
    return {layer: (found[0], found[-1] + 1) for layer, found in places.items()}


def launches(call: Call) -> int:
    """GPU kernels and copies that a call launches: the nodes of a graph of it."""
    graph = captured(call, keep=True)
    count = ctypes.c_size_t()
    driver = ctypes.CDLL("libcuda.so.1")
    raw = ctypes.c_void_p(graph.raw_cuda_graph())
    if driver.cuGraphGetNodes(raw, None, ctypes.byref(count)):
        raise RuntimeError("cuGraphGetNodes failed")
    return count.value


@contextmanager
def apart() -> Generator[None]:
    """Within it a kernel that is launched or captured begins when the one before it has ended."""
    before = os.environ.get(PDL.name)
    os.environ[PDL.name] = "0"
    try:
        yield
    finally:
        del os.environ[PDL.name]
        if before is not None:
            os.environ[PDL.name] = before


def added_times(step: BenchStep, cuts: Sequence[int], rounds: int) -> Callable[[int, int], Time]:
    """Times between two of several cuts of the step, each a number of its first nodes.

    Graphs of the nodes before each cut are replayed in turn; what one takes longer than another
    is the time of the nodes between, launch gaps and overlap included.
    """
    replays = [captured(step.prefix(cut)).replay for cut in cuts]
    found = dict(zip(cuts, replay_rounds(replays, rounds), strict=True))

    def between(first: int, end: int) -> Time:
        return spread([b - a for a, b in zip(found[first], found[end], strict=True)])

    return between
