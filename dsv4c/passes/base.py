"""What a pass is, what it reports, and the driver that runs a list of them.

A pass is a frozen dataclass with its options as fields. It takes a graph and returns a new one
with remarks: what each rule did, and where it matched but refused, the guard and its values.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from dsv4c.ir.graph import Graph
from dsv4c.ir.verify import verify


@dataclass(frozen=True, slots=True)
class Remark:
    """One rule at one place: `applied` with what it made, or `refused` with the reason."""

    rule: str
    status: Literal["applied", "refused"]
    node: str
    layer: int | None
    text: str


@dataclass(frozen=True, slots=True)
class PassResult:
    """What a pass returns; `candidates` counts the places that a rule looked at, if it is one."""

    graph: Graph
    modified: bool
    remarks: tuple[Remark, ...] = ()
    candidates: int | None = None


class Pass(Protocol):
    """A named rewrite. `stage` is the stage of its result; empty means the stage stays."""

    @property
    def name(self) -> str: ...

    def run(self, graph: Graph) -> PassResult: ...


@dataclass(frozen=True, slots=True)
class PassRecord:
    """What the driver saw of one pass: nodes before and after, seconds, remarks, the result.

    `seconds` includes verifying the result.
    """

    index: int
    name: str
    modified: bool
    nodes_before: int
    nodes_after: int
    seconds: float
    remarks: tuple[Remark, ...]
    graph: Graph
    candidates: int | None = None


def run_passes(
    graph: Graph,
    passes: Iterable[Pass],
    observe: Callable[[PassRecord], None] | None = None,
) -> tuple[Graph, list[PassRecord]]:
    """Run passes in order and verify the graph before the first and after each.

    Args:
        graph: a valid graph.
        passes: in order.
        observe: called after each pass.

    Raises:
        DsvError: DSV222 if a pass returned an invalid graph; its name is in the text.
    """
    verify(graph, "construction")
    records: list[PassRecord] = []
    for index, one in enumerate(passes, 1):
        began = time.perf_counter()
        result = one.run(graph)
        verify(result.graph, one.name)
        record = PassRecord(
            index,
            one.name,
            result.modified,
            len(graph.nodes),
            len(result.graph.nodes),
            time.perf_counter() - began,
            result.remarks,
            result.graph,
            result.candidates,
        )
        records.append(record)
        if observe is not None:
            observe(record)
        graph = result.graph
    return graph, records


def at_stage(graph: Graph, stage: str) -> Graph:
    return graph if graph.stage == stage else replace(graph, stage=stage)
