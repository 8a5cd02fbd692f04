"""What lies in the arena of a graph, from which node to which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dsv4c.ir.graph import Graph, Node, view_roots
from dsv4c.ir.types import CacheType, RowsType, TensorType

ALIGNMENT = 256
"""Bytes: what cudaMalloc gives; a kernel may load any vector from the start of an operand."""


@dataclass(frozen=True, slots=True)
class Stay:
    """A result that is no view, or the scratch of a node, with memory of its own.

    Attributes:
        value: the result's name; of a node's scratch `NODE#0`, `NODE#1`.
        node: that makes or wants it.
        number: which of the node's offsets is its place.
        type: its size follows from it.
        first: place of that node in the schedule.
        last: place of the last node that reads it, itself or through a view.
    """

    value: str
    node: str
    number: int
    type: TensorType
    first: int
    last: int


def stays(graph: Graph) -> list[Stay]:
    """Everything that lies in the arena, in the order of the schedule; zeroed scratch does not.

    What a node reads and what it makes are there together, so that no node overwrites its operands.
    """
    root = view_roots(graph)
    last = {root[value]: i for i, node in enumerate(graph.nodes) for value in node.inputs}
    last.update(dict.fromkeys((root[value] for value in graph.outputs), len(graph.nodes) - 1))
    found: list[Stay] = []
    for i, node in enumerate(graph.nodes):
        for number, value in enumerate(node.outputs):
            type_ = graph.types[value]
            if isinstance(type_, TensorType) and root[value] == value:
                found.append(Stay(value, node.name, number, type_, i, last.get(value, i)))
        for number, scratch in enumerate(node.scratch):
            if not scratch.zeroed:
                place = len(node.outputs) + number
                name = f"{node.name}#{number}"
                found.append(Stay(name, node.name, place, scratch.type, i, i))
    return found


def aligned(size: int) -> int:
    """Bytes that a value of `size` bytes takes up."""
    return -(-size // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, slots=True)
class ArenaSize:
    """Bytes of a planned graph's memory in its largest step.

    Attributes:
        arena: of the arena.
        zeroed: of the zeroed region beside it.
        live: the most that is in the arena at one place of the schedule: no arena is smaller.
    """

    arena: int
    zeroed: int
    live: int


def arena_size(graph: Graph) -> ArenaSize:
    """Sizes of the arena of a planned graph."""
    live, arena, zeroed = [0] * (len(graph.nodes) + 1), 0, 0
    for stay in stays(graph):
        size = aligned(stay.type.nbytes(graph.step))
        arena = max(arena, graph.nodes[stay.first].offsets[stay.number] + size)
        live[stay.first] += size
        live[stay.last + 1] -= size
    for node in graph.nodes:
        for scratch, offset in zip(node.scratch, node.offsets[len(node.outputs) :], strict=True):
            if scratch.zeroed:
                zeroed = max(zeroed, offset + aligned(scratch.type.nbytes(graph.step)))
    most = now = 0
    for change in live:
        now += change
        most = max(most, now)
    return ArenaSize(arena, zeroed, most)


def _overlaps(
    placed: Sequence[tuple[Stay, int, int]],
) -> Iterator[tuple[Stay, Stay]]:
    """Pairs that are there at the same time and share bytes; of each, the one found first.

    Args:
        placed: what lies in the arena with its offset and bytes, in the order of the schedule.
    """
    here: list[tuple[Stay, int, int]] = []
    for stay, offset, size in placed:
        here = [one for one in here if one[0].last >= stay.first]
        for other, begin, length in here:
            if offset < begin + length and begin < offset + size:
                yield other, stay
        here.append((stay, offset, size))


def arena_problems(graph: Graph) -> Iterator[tuple[Node | None, str]]:
    """Of a planned graph: every tensor result and scratch has a place that nothing else has at that time."""
    if not graph.step:
        yield None, "has no step that its arena is laid out for"
        return
    root = view_roots(graph)
    held = dict.fromkeys(graph.inputs, -1)
    sound = True
    for node, wrong in _offsets(graph, root, held):
        sound = False
        yield node, wrong
    if not sound:
        return
    try:
        placed = [
            (stay, graph.producers[stay.node].offsets[stay.number], stay.type.nbytes(graph.step))
            for stay in stays(graph)
        ]
    except KeyError as error:
        yield None, f"its step has no size {error}"
        return
    for other, stay in _overlaps(placed):
        yield graph.producers[stay.node], f"%{stay.value} overwrites %{other.value}, still in use"
    yield from _zeroed(graph)


def _offsets(
    graph: Graph, root: Mapping[str, str], held: dict[str, int]
) -> Iterator[tuple[Node | None, str]]:
    for node in graph.nodes:
        if len(node.offsets) != len(node.outputs) + len(node.scratch):
            wanted = f"{len(node.outputs)} outputs and {len(node.scratch)} scratch"
            yield node, f"has {len(node.offsets)} offsets for {wanted}"
            return
        for value, offset in zip(node.outputs, node.offsets, strict=False):
            held[value] = offset
            state = isinstance(graph.types[value], CacheType | RowsType)
            viewed = root[value] != value
            outside = state or root[value] in graph.inputs
            if outside != (offset < 0) or (viewed and offset != held[root[value]]):
                yield node, f"%{value} has offset {offset}"
        for offset in (one for one in node.offsets if one > 0 and one % ALIGNMENT):
            yield node, f"offset {offset} is no multiple of {ALIGNMENT}"
        for offset in (one for one in node.offsets[len(node.outputs) :] if one < 0):
            yield node, f"its scratch has offset {offset}"


def _zeroed(graph: Graph) -> Iterator[tuple[Node | None, str]]:
    """Zeroed scratch of one node shares no bytes; that of several nodes does."""
    for node in graph.nodes:
        ends = 0
        own = zip(node.scratch, node.offsets[len(node.outputs) :], strict=True)
        for offset, size in sorted((at, s.type.nbytes(graph.step)) for s, at in own if s.zeroed):
            if offset < ends:
                yield node, f"zeroed scratch at {offset} overlaps another"
            ends = offset + size
