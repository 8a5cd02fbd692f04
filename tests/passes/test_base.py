"""The driver: verifies before and after every pass, records what each did."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from dsv4c.errors import DsvError
from dsv4c.ir.graph import Graph
from dsv4c.ir.text import parse
from dsv4c.passes.base import PassRecord, PassResult, Remark, run_passes
from dsv4c.passes.dead_code import DeadCode

GRAPH = parse("""\
graph "small" stage(model) {
  in %x: bf16[T, 8]
  %a: bf16[T, 8] = head_norm(%x)
  %b: bf16[T, 8] = head_norm(%x)
  return %b
}
""")


@dataclass(frozen=True)
class Break:
    """Drops the node that the graph returns."""

    name: str = "break_it"

    def run(self, graph: Graph) -> PassResult:
        return PassResult(replace(graph, nodes=graph.nodes[:-1]), True)


@dataclass(frozen=True)
class Speak:
    name: str = "speak"

    def run(self, graph: Graph) -> PassResult:
        return PassResult(graph, False, (Remark("rule", "refused", "b", 3, "expected a, got b"),))


def test_records() -> None:
    seen: list[PassRecord] = []
    graph, records = run_passes(GRAPH, [Speak(), DeadCode()], seen.append)
    assert records == seen
    speak, dead = records
    assert (speak.index, speak.name, speak.modified) == (1, "speak", False)
    assert speak.remarks == (Remark("rule", "refused", "b", 3, "expected a, got b"),)
    assert (dead.index, dead.name, dead.modified) == (2, "dead_code", True)
    assert (dead.nodes_before, dead.nodes_after) == (2, 1)
    assert dead.graph is graph
    assert dead.seconds >= 0


def test_a_pass_that_breaks_the_graph_is_named() -> None:
    seen: list[PassRecord] = []
    with pytest.raises(DsvError) as caught:
        run_passes(GRAPH, [Speak(), Break(), DeadCode()], seen.append)
    assert caught.value.code == "DSV222"
    assert caught.value.what == "the graph breaks a rule after break_it"
    assert caught.value.found == "the graph returns %b, which is not defined"
    assert [record.name for record in seen] == ["speak"]


def test_the_graph_is_verified_before_the_first_pass() -> None:
    with pytest.raises(DsvError, match="breaks a rule after construction"):
        run_passes(replace(GRAPH, outputs=("c",)), [])
