"""The verifier: what must hold for a graph at its stage. It runs after every pass."""

from __future__ import annotations

from collections.abc import Iterator

from dsv4c.errors import DsvError
from dsv4c.ir import ops as _ops
from dsv4c.ir.graph import STAGES, Graph, Node, writes
from dsv4c.ir.lifetimes import arena_problems
from dsv4c.ir.op import OpError, infer
from dsv4c.ir.text import show_node
from dsv4c.ir.types import WeightType

assert _ops.__all__, "importing the package declares the ops"


def verify(graph: Graph, after: str = "") -> None:
    """Raise DsvError DSV222 with the first broken rule, the node, and the pass it came `after`."""
    for node, wrong in problems(graph):
        raise DsvError(
            "DSV222",
            "the graph breaks a rule" + (f" after {after}" if after else ""),
            where=f"stage {graph.stage}" + (f", node {show_node(node, graph)}" if node else ""),
            found=wrong,
            hint="this is a bug in the pass or an error in an edited IR file",
        )


def problems(graph: Graph) -> Iterator[tuple[Node | None, str]]:
    """Every broken rule, with its node where there is one."""
    if graph.stage not in STAGES:
        yield None, f"unknown stage {graph.stage}"
    yield from _structure(graph, set(graph.inputs))
    yield from _states(graph)
    if graph.stage in ("lowered", "planned"):
        for node in graph.nodes:
            if not node.impl:
                yield node, "nothing runs this node: impl is empty"
    if graph.stage == "planned":
        yield from arena_problems(graph)


def _structure(graph: Graph, defined: set[str]) -> Iterator[tuple[Node | None, str]]:
    for node in graph.nodes:
        for value in node.inputs:
            if value not in defined:
                yield node, f"%{value} is used before it is defined"
        for value in node.outputs:
            if value in defined:
                yield node, f"%{value} is defined twice"
            if value not in graph.types:
                yield node, f"%{value} has no type"
        defined.update(node.outputs)
        yield from _typed(node, graph)
        needs_origin = any(isinstance(graph.types.get(v), WeightType) for v in node.inputs)
        if needs_origin and not node.origin.tensors:
            yield node, "reads a weight but names no checkpoint tensor"
    for value in graph.outputs:
        if value not in defined:
            yield None, f"the graph returns %{value}, which is not defined"
    if set(graph.types) - defined:
        yield None, f"%{sorted(set(graph.types) - defined)[0]} has a type but no definition"


def _typed(node: Node, graph: Graph) -> Iterator[tuple[Node | None, str]]:
    if node.body is None:
        untyped = [value for value in node.inputs if value not in graph.types]
        if untyped:
            yield node, f"%{untyped[0]} has no type"
            return
        try:
            results = infer(node.op, [graph.types[value] for value in node.inputs], node.attrs)
        except OpError as error:
            yield node, str(error)
            return
        declared = tuple(graph.types.get(value) for value in node.outputs)
        if results != declared:
            found = ", ".join(map(str, declared))
            yield node, f"declares {found}; {node.op} gives {', '.join(map(str, results))}"
        return
    if node.op != "fused" or "kind" not in node.attrs:
        yield node, "has a body but is not a fused node with a kind"
    if node.body.inputs != node.inputs or node.body.outputs != node.outputs:
        yield node, "the body's inputs and outputs differ from the node's"
    for value in (*node.inputs, *node.outputs):
        if node.body.types.get(value) != graph.types.get(value):
            yield node, f"%{value} has another type inside the body"
    yield from ((node, wrong) for _, wrong in _structure(node.body, set(node.inputs)))
    yield from ((node, wrong) for _, wrong in _states(node.body))


def _states(graph: Graph) -> Iterator[tuple[Node | None, str]]:
    """Each state version has at most one writer, and nobody reads it after that."""
    replaced: dict[str, str] = {}
    for node in graph.nodes:
        for value in node.inputs:
            if value in replaced:
                yield node, f"reads %{value} after {replaced[value]} overwrote it"
        for old in writes(node, graph).values():
            replaced[old] = node.name
    for value in graph.outputs:
        if value in replaced:
            yield None, f"the graph returns %{value}, which {replaced[value]} overwrote"
    if graph.stage in STAGES and graph.inputs:
        kept = set(graph.outputs)
        for new in (new for node in graph.nodes for new in writes(node, graph)):
            if new not in replaced and new not in kept:
                yield None, f"the last version of a state, %{new}, is not returned"
