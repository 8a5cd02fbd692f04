"""A step whose nodes can be run again: all up to one, in the step's own memory, or one by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from dsv4c.ir.graph import Node
from dsv4c.ir.values import Operand
from dsv4c.runtime.case import copied
from dsv4c.runtime.executor import REFERENCE, step_sizes
from dsv4c.runtime.session import Session

Call = Callable[[], object]
_FLUSHED = 1 << 28


class Step:
    """One step of a session, run once.

    Args:
        session: that was prepared for the step.
        inputs: of the step, as `Session.prepare` returns them.

    Attributes:
        nodes: those with kernels, with operands that other nodes do not overwrite.
        sizes: of the step.
    """

    def __init__(self, session: Session, inputs: Mapping[str, torch.Tensor]) -> None:
        kept = _Kept()
        self.sizes = step_sizes(inputs)
        self._executor, self._inputs = session.executor, inputs
        self._executor.step(inputs, kept)
        self.nodes = kept.nodes

    def prefix(self, count: int, before: Call) -> None:
        """Call `before`, then run the first `count` nodes with kernels in the step's own memory."""
        before()
        values: dict[str, Operand] = {**self._executor.constants, **self._inputs}
        for node in self._executor.graph.nodes:
            count -= node.impl != REFERENCE
            if count < 0:
                return
            operands = [values[value] for value in node.inputs]
            results = self._executor.run(node, operands, self.sizes)
            values.update(zip(node.outputs, results, strict=True))

    def alone(self, index: int) -> None:
        """Run one of `nodes`."""
        node, operands = self.nodes[index]
        self._executor.run(node, operands, self.sizes)


class _Kept:
    """A watcher that keeps every kernel's operands; tensors are copies, states are not."""

    def __init__(self) -> None:
        self.nodes: list[tuple[Node, list[Operand]]] = []

    def before(self, node: Node, operands: Sequence[Operand]) -> None:
        if node.impl != REFERENCE:
            tensors = iter(copied([one for one in operands if isinstance(one, torch.Tensor)]))
            kept = [next(tensors) if isinstance(one, torch.Tensor) else one for one in operands]
            self.nodes.append((node, kept))

    def after(self, node: Node, results: Sequence[Operand]) -> None:
        pass


class Flush:
    """Reads more memory than an L2 holds."""

    def __init__(self) -> None:
        self._memory = torch.zeros(_FLUSHED // 4, device="cuda")
        self._sum = torch.zeros((), device="cuda")

    def __call__(self) -> None:
        torch.sum(self._memory, dim=0, out=self._sum)
