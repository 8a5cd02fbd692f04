"""Two plans on the same tokens, node by node, until a value differs by more than rounding explains.

Values are aligned by name, so the plans may be fused differently. Plan A runs as it always does.
Plan B gets every operand that A also makes from A, the rest from itself; each value that both make
is compared, and each state after it was written. So a difference belongs to the nodes of B since
the last common values, and the first one that is too large names the node. What no remaining node
of either plan needs is dropped.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch

from dsv4c.errors import DsvError
from dsv4c.ir.graph import Graph, Node
from dsv4c.ir.types import TensorType
from dsv4c.ir.values import Operand, State, Weight
from dsv4c.runtime.batch import Rows
from dsv4c.runtime.bounds import (
    is_routing,
    magnitude_of,
    only_ties,
    ratio,
    rounds_inside,
    state_ratio,
    steps_of,
)
from dsv4c.runtime.executor import Executor, copied_tensors, step_sizes
from dsv4c.runtime.session import Session


@dataclass(frozen=True, slots=True)
class Compared:
    """One value that both plans make: |b - a| / bound, beyond 1 they differ.

    Attributes:
        value: its name in both plans.
        node: that makes it in B.
        other: the node that makes it in A.
        kind: of B's node.
        impl: what runs B's node.
        layer: of B's node.
        step: counted from 1.
        since: nodes of B since the last common values, `node` included.
        ratio: infinite where the masks of NaN or the integers differ.
    """

    value: str
    node: str
    other: str
    kind: str
    impl: str
    layer: int | None
    step: int
    since: tuple[str, ...]
    ratio: float

    @property
    def ok(self) -> bool:
        return self.ratio <= 1


def compare(a: Session, b: Session, ids: Sequence[int]) -> list[Compared]:
    """Prefill all but the last id, decode the last; every common value up to the first that differs.

    Args:
        a: with a free slot and room for the ids.
        b: as `a`, of the other plan.
        ids: at least one token id.

    Raises:
        DsvError: DSV101 if common values have other types; else as `Session.prefill`.
    """
    _require_comparable(a.executor.graph, b.executor.graph)
    found: list[Compared] = []
    slots = a.open(), b.open()
    try:
        chunk = min(a.chunk, b.chunk)
        cuts = [*range(0, len(ids) - 1, chunk), len(ids) - 1, len(ids)]
        for step, (first, end) in enumerate(pairwise(cuts), 1):
            rows = [Rows(slot, first, list(ids[first:end]), end - first) for slot in slots]
            lockstep = _Lockstep(a, b, a.prepare(rows[:1]), b.prepare(rows[1:]), step)
            with torch.inference_mode():
                found += lockstep.run()
            if found and not found[-1].ok:
                break
    finally:
        a.close(slots[0])
        b.close(slots[1])
    return found


def _require_comparable(a: Graph, b: Graph) -> None:
    for name in a.types.keys() & b.types.keys():
        if name not in a.inputs and a.types[name] != b.types[name]:
            raise DsvError(
                "DSV101",
                "the plans' values have other types",
                where=f"%{name}",
                expected=str(a.types[name]),
                found=str(b.types[name]),
                hint="compile both with the same --dtype and --kv-cache",
            )


@dataclass
class _Side:
    """One plan within a step: what it holds, and how often each value will still be read."""

    executor: Executor
    inputs: Mapping[str, torch.Tensor]
    values: dict[str, Operand] = field(default_factory=dict[str, Operand])
    fresh: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    made: set[str] = field(default_factory=set[str])

    def __post_init__(self) -> None:
        self.graph = self.executor.graph
        self.values = {**self.executor.constants, **self.inputs}
        self.sizes = step_sizes(self.inputs)
        self.device = self.inputs["ids"].device

    def since(self, node: Node, common: set[str]) -> tuple[str, ...]:
        """The nodes since the last common values that lead to a node, itself included."""
        before = (name for value in node.inputs for name in self.fresh.get(value, ()))
        chain = tuple(dict.fromkeys((*before, node.name)))
        self.fresh.update({value: chain for value in node.outputs if value not in common})
        return chain


class _Lockstep:
    def __init__(
        self,
        a: Session,
        b: Session,
        inputs_a: Mapping[str, torch.Tensor],
        inputs_b: Mapping[str, torch.Tensor],
        step: int,
    ) -> None:
        self.a, self.b = _Side(a.executor, inputs_a), _Side(b.executor, inputs_b)
        self.step = step
        self.common = set(self.a.graph.producers) & set(self.b.graph.producers)
        self.left = Counter(v for node in self.a.graph.nodes for v in node.inputs)
        self.left.update(v for node in self.b.graph.nodes for v in (*node.inputs, *node.outputs))
        self.chains: dict[str, tuple[str, ...]] = {}

    def run(self) -> list[Compared]:
        """Compared values, in the order of B; the last one may be beyond its bound."""
        found: list[Compared] = []
        waiting = list(reversed(self.b.graph.nodes))
        for node in (*self.a.graph.nodes, None):
            if node is not None:
                self._run_a(node)
            while waiting and (node is None or self._ready(waiting[-1])):
                found += self._run_b(waiting.pop())
                if found and not found[-1].ok:
                    return found
        return found

    def _run_a(self, node: Node) -> None:
        side = self.a
        operands = [side.values[value] for value in node.inputs]
        results = copied_tensors(side.executor.run(node, operands, side.sizes))
        side.values.update(zip(node.outputs, results, strict=True))
        side.made.update(node.outputs)
        self.chains.update(dict.fromkeys(node.outputs, side.since(node, self.common)))
        self._read(side, node.inputs)

    def _ready(self, node: Node) -> bool:
        """Whether A has made whatever it shares with a node of B."""
        needed = self.common.intersection((*node.inputs, *node.outputs))
        return needed <= self.a.made

    def _run_b(self, node: Node) -> list[Compared]:
        side = self.b
        operands = [self._operand(value) for value in node.inputs]
        results = copied_tensors(side.executor.run(node, operands, side.sizes))
        chain = side.since(node, self.common)
        tied = is_routing(node) and self._only_ties(node, results)
        found: list[Compared] = []
        for value, result in zip(node.outputs, results, strict=True):
            if value in self.common:
                one = self._compare(node, value, result, operands, chain)
                found.append(replace(one, ratio=0.0) if tied else one)
                if not found[-1].ok:
                    return found
            if value not in self.common or isinstance(result, State):
                side.values[value] = result
        self._read(side, (*node.inputs, *node.outputs))
        return found

    def _only_ties(self, node: Node, results: Sequence[Operand]) -> bool:
        """Whether two routings chose differently between equal experts, and nothing else."""
        others = [self.a.values.get(value) for value in node.outputs]
        moved = [one.to(self.b.device) for one in others if isinstance(one, torch.Tensor)]
        return len(moved) == len(results) and only_ties(results, moved)

    def _operand(self, value: str) -> Operand:
        """A's value where A makes it too; states and weights are B's own."""
        own = self.b.values.get(value)
        if own is not None:
            return own
        taken = self.a.values[value]
        assert isinstance(taken, torch.Tensor)
        return taken.to(self.b.device)

    def _compare(
        self,
        node: Node,
        value: str,
        y: Operand,
        operands: Sequence[Operand],
        chain: tuple[str, ...],
    ) -> Compared:
        r = self.a.values[value]
        other = self.chains[value]
        found = self._ratio(node, value, y, r, operands, len({*chain, *other}))
        maker = self.a.graph.producers[value].name
        if isinstance(y, State) and isinstance(r, State):
            y.buffer.copy_(r.buffer)
        facts = node.kind, node.impl, node.origin.layer
        return Compared(value, node.name, maker, *facts, self.step, chain, found)

    def _ratio(
        self,
        node: Node,
        value: str,
        y: Operand,
        r: Operand,
        operands: Sequence[Operand],
        nodes: int,
    ) -> float:
        """|y - r| over twice the bound of one side: both may have rounded."""
        assert not isinstance(y, Weight)
        maker = self.a.graph.producers[value]
        fused = nodes > 1 or node.body is not None or maker.body is not None
        if isinstance(y, State):
            assert isinstance(r, State)
            moved = State(r.type, r.buffer.to(y.buffer.device))
            return state_ratio(y, moved, fused) / 2
        assert isinstance(r, torch.Tensor)
        r = r.to(y.device)
        if y.shape != r.shape:
            return math.inf
        if torch.equal(y, r):
            return 0.0
        if not y.is_floating_point():
            return math.inf
        type_ = self.b.graph.types[value]
        assert isinstance(type_, TensorType)
        steps = steps_of(node) + steps_of(maker) + nodes
        magnitude, terms = magnitude_of(node, value, operands)
        if type_.dtype != "bf16":
            fused = rounds_inside(node, value) or rounds_inside(maker, value)
        return ratio(y, r, type_.dtype, magnitude, terms, steps, fused) / 2

    def _read(self, side: _Side, values: Sequence[str]) -> None:
        """Count reads; drop what nobody needs any more."""
        for value in values:
            self.left[value] -= 1
            if self.left[value] <= 0:
                for one in (self.a, self.b):
                    if value not in one.executor.constants:
                        one.values.pop(value, None)
