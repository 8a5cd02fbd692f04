"""Node-by-node check of a run: each result against its exact reference on the same operands.

A plan's node is run as it always is; its reference is interpreted in fp64 on copies of the very
operands that the node saw, so one wrong node does not make the later ones look wrong. The bounds are
those of `dsv4c.runtime.bounds`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dsv4c.ir.graph import Graph, Node
from dsv4c.ir.interp import run_node
from dsv4c.ir.types import TensorType
from dsv4c.ir.values import Operand, State
from dsv4c.runtime.bounds import (
    Magnitude,
    is_routing,
    magnitude_of,
    only_ties,
    ratio,
    rounds_inside,
    state_ratio,
    steps_of,
)
from dsv4c.runtime.session import Session


@dataclass(frozen=True, slots=True)
class NodeCheck:
    """One node of one step: the largest |y - r| / bound over its results; beyond 1 it is wrong."""

    node: str
    kind: str
    impl: str
    layer: int | None
    step: int
    ratio: float
    output: str

    @property
    def ok(self) -> bool:
        return self.ratio <= 1


class Checker:
    """A watcher that checks every node of every step.

    Args:
        graph: the planned graph.

    Attributes:
        checks: in execution order.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.checks: list[NodeCheck] = []
        self._steps = 0
        self._expected: Sequence[Operand] = ()
        self._magnitudes: Sequence[Magnitude] = ()

    def before(self, node: Node, operands: Sequence[Operand]) -> None:
        self._steps += node is self.graph.nodes[0]
        copies = [value.clone() if isinstance(value, State) else value for value in operands]
        self._expected = run_node(node, copies, self.graph.types, "exact")
        self._magnitudes = [magnitude_of(node, value, operands) for value in node.outputs]

    def after(self, node: Node, results: Sequence[Operand]) -> None:
        worst, where = 0.0, node.name
        parts = zip(node.outputs, results, self._expected, self._magnitudes, strict=True)
        for value, result, expected, magnitude in parts:
            if isinstance(result, State):
                assert isinstance(expected, State)
                ratio = state_ratio(result, expected, node.body is not None)
            else:
                assert isinstance(result, torch.Tensor)
                assert isinstance(expected, torch.Tensor)
                ratio = self._tensor_ratio(node, value, result, expected, magnitude)
            if not ratio <= worst:
                worst, where = ratio, value
        if is_routing(node) and worst > 1:
            worst = 0.0 if only_ties(results, self._expected) else worst
        self.checks.append(
            NodeCheck(node.name, node.kind, node.impl, node.origin.layer, self._steps, worst, where)
        )

    def _tensor_ratio(
        self,
        node: Node,
        value: str,
        y: torch.Tensor,
        r: torch.Tensor,
        magnitude: Magnitude,
    ) -> float:
        type_ = self.graph.types[value]
        assert isinstance(type_, TensorType)
        if not y.is_floating_point():
            return 0.0 if torch.equal(y.long(), r.long()) else math.inf
        fused = rounds_inside(node, value)
        return ratio(y, r, type_.dtype, *magnitude, steps_of(node), fused)


def check(session: Session, ids: Sequence[int]) -> list[NodeCheck]:
    """Prefill all but the last id, decode the last, and check each node of these steps.

    Args:
        session: with a free slot and room for the ids.
        ids: at least one token id.

    Raises:
        DsvError: as `Session.prefill`.
    """
    checker = Checker(session.plan.graph)
    slot = session.open()
    try:
        if len(ids) > 1:
            session.prefill(slot, ids[:-1], watcher=checker)
        session.prefill(slot, ids[-1:], watcher=checker)
    finally:
        session.close(slot)
    return checker.checks
