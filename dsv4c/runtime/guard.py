"""The NaN guard: the first node that makes a value which is not finite, with its operands.

Minus infinity marks a score of nothing where the op declares it, and a gate of partial rows that was
not seen; every other NaN or infinity is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from dsv4c.ir.graph import Node
from dsv4c.ir.op import OPS
from dsv4c.ir.types import CacheType, RowsType, Sym, TensorType, Type
from dsv4c.ir.values import Operand, State
from dsv4c.runtime.batch import Rows
from dsv4c.runtime.case import Captured, copied
from dsv4c.runtime.session import Session


@dataclass(frozen=True, slots=True)
class Finding:
    """A value that is not finite.

    Attributes:
        captured: the node and its operands.
        output: which of its results.
        value: `nan`, `inf` or `-inf`.
        count: how many elements are not finite.
        step: counted from 1.
        slot: the sequence, where a token's row is wrong.
        position: of that token.
        index: of the first such element in the result.
    """

    captured: Captured
    output: str
    value: str
    count: int
    step: int
    slot: int | None
    position: int | None
    index: tuple[int, ...]


class _Found(Exception):
    def __init__(self, finding: Finding) -> None:
        super().__init__()
        self.finding = finding


class _Guard:
    """A watcher of one step that stops at the first finding."""

    def __init__(
        self, types: Mapping[str, Type], inputs: Mapping[str, torch.Tensor], step: int
    ) -> None:
        self.types, self.inputs, self.step = types, inputs, step
        self._operands: list[Operand] = []

    def before(self, node: Node, operands: Sequence[Operand]) -> None:
        self._operands = copied(operands)

    def after(self, node: Node, results: Sequence[Operand]) -> None:
        states = (one for one in self._operands if isinstance(one, State))
        for value, result in zip(node.outputs, results, strict=True):
            if isinstance(result, State):
                made, places = _written(next(states), result)
                self._check(node, value, made, isinstance(result.type, RowsType), places)
            elif isinstance(result, torch.Tensor) and result.is_floating_point():
                maker = node if node.body is None else node.body.producers[value]
                self._check(node, value, result, OPS[maker.op].masked)

    def _check(
        self,
        node: Node,
        value: str,
        made: torch.Tensor,
        masked: bool,
        places: torch.Tensor | None = None,
    ) -> None:
        wrong = ~made.isfinite()
        if masked:
            wrong &= made != -torch.inf
        if not bool(wrong.any()):
            return
        index = wrong.nonzero()[0]
        found = float(made[tuple(index)])
        if places is not None:
            index[0] = places[index[0]]
        place = tuple(index.tolist())
        captured = Captured(node, self._operands)
        facts = str(found), int(wrong.sum()), self.step, *self._token(value, place), place
        raise _Found(Finding(captured, value, *facts))

    def _token(self, value: str, place: tuple[int, ...]) -> tuple[int | None, int | None]:
        """The sequence and the position that an element belongs to, where one can tell."""
        type_ = self.types[value]
        if isinstance(type_, RowsType):
            return place[0], None
        if isinstance(type_, CacheType):
            if type_.ring:
                return place[0] * type_.layout.page // type_.ring, None
            owners = (self.inputs["block_table"] == place[0]).any(1).nonzero()
            return int(owners[0, 0]), None
        row = self._row(value, place)
        if row is None:
            return None, None
        return int(self.inputs["slot"][row]), int(self.inputs["pos"][row])

    def _row(self, value: str, place: tuple[int, ...]) -> int | None:
        """The token's row in this step."""
        type_ = self.types[value]
        if not isinstance(type_, TensorType) or not type_.dims:
            return None
        if type_.dims[0] == Sym("T"):
            return place[0]
        return int(self.inputs["out_rows"][place[0]]) if type_.dims[0] == Sym("R") else None


def _written(before: State, after: State) -> tuple[torch.Tensor, torch.Tensor]:
    """Decoded values of what a node changed in a state, and the pages or slots they are in."""
    changed = (before.buffer != after.buffer).flatten(1).any(1).nonzero()[:, 0]
    if isinstance(after.type, RowsType):
        return after.buffer[changed], changed
    layout = after.type.layout
    entries = torch.arange(layout.page, device=changed.device)
    return layout.gather(after.buffer, changed[:, None] * layout.page + entries), changed


def guard_step(session: Session, batch: Sequence[Rows], step: int = 1) -> Finding | None:
    """Run a step; its first value that is not finite, or None. What follows it is not run.

    Args:
        session: with the sequences of the rows.
        batch: rows of several sequences.
        step: its number, for the finding.

    Raises:
        DsvError: as `Session.step`.
    """
    inputs = session.prepare(batch)
    try:
        with torch.inference_mode():
            session.executor.step(inputs, _Guard(session.executor.graph.types, inputs, step))
    except _Found as found:
        return found.finding
    return None


def guard(session: Session, ids: Sequence[int]) -> Finding | None:
    """Prefill all but the last id, decode the last; the first value that is not finite, or None.

    Raises:
        DsvError: as `Session.prefill`.
    """
    slot = session.open()
    try:
        cuts = [*range(0, len(ids) - 1, session.chunk), len(ids) - 1]
        for step, first in enumerate(cuts, 1):
            part = list(ids[first : cuts[step] if step < len(cuts) else len(ids)])
            found = guard_step(session, [Rows(slot, first, part, len(part))], step)
            if found is not None:
                return found
    finally:
        session.close(slot)
    return None
