"""Matching and fusing: how a rule walks the graph, refuses with a reason, and makes a fused node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dsv4c.ir.graph import Attr, Graph, Node, Origin, dependence, sort_nodes
from dsv4c.passes.base import PassResult, Remark, at_stage


class Refused(Exception):
    """The rule matched its anchor but a guard does not hold; the text says which, with values."""


@dataclass(frozen=True, slots=True)
class Match:
    """Nodes to fuse, the order of the fused node's operands and results, and its attributes.

    `copied` are cheap pure nodes that the body computes again: they may have users elsewhere.
    `origin` is the fused node's where it is not that of its parts taken together.
    """

    kind: str
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    copied: tuple[Node, ...] = ()
    attrs: Mapping[str, Attr] = field(default_factory=dict[str, Attr])
    origin: Origin | None = None


def producer(graph: Graph, value: str, op: str) -> Node:
    """The node that makes a value, which must be an `op`. Raises Refused."""
    node = graph.producers.get(value)
    if node is None or node.kind != op:
        made = "a graph input" if node is None else node.kind
        raise Refused(f"expected %{value} to come from {op}, got {made}")
    return node


def only_user(graph: Graph, value: str, user: Node) -> None:
    """Nobody but `user` may need a value that a fusion removes. Raises Refused."""
    others = [node.name for node in graph.consumers.get(value, ()) if node is not user]
    if others:
        raise Refused(
            f"expected %{value} to be used only by %{user.name}, also used by %{others[0]}"
        )
    if value in graph.outputs:
        raise Refused(f"expected %{value} to be used only by %{user.name}, the graph returns it")


def require(condition: bool, guard: str, got: object) -> None:
    """One guard. Raises Refused with what it expected and what it got."""
    if not condition:
        raise Refused(f"expected {guard}, got {got}")


@dataclass(frozen=True, slots=True)
class Splice:
    """New nodes for the places `first` to `end` (exclusive) of a graph."""

    first: int
    end: int
    nodes: tuple[Node, ...]


def fuse(graph: Graph, match: Match) -> Splice:
    """The matched nodes inside one fused node. Raises Refused if the match is not convex.

    Only the stretch between the first and the last matched node is looked at and sorted anew: a
    path that leaves it cannot come back.
    """
    members = {node.name for node in match.nodes}
    places = sorted(graph.places[name] for name in members)
    first, end = places[0], places[-1] + 1
    stretch = graph.nodes[first:end]
    _require_convex(replace(graph, nodes=stretch), members)
    parts = sorted((*match.nodes, *match.copied), key=lambda node: graph.places[node.name])
    values = dict.fromkeys([*match.inputs, *(value for part in parts for value in part.outputs)])
    body = Graph(
        match.kind,
        "model",
        match.inputs,
        tuple(parts),
        match.outputs,
        {value: graph.types[value] for value in values},
    )
    origin = match.origin or Origin().union(part.origin for part in parts)
    attrs: dict[str, Attr] = {"kind": match.kind, **match.attrs}
    node = Node("fused", match.inputs, match.outputs, attrs, origin, body)
    kept = [one for one in stretch if one.name not in members]
    return Splice(first, end, sort_nodes(replace(graph, nodes=(*kept, node))).nodes)


def _splice(graph: Graph, splices: Sequence[Splice]) -> Graph:
    """The graph with stretches replaced; they do not overlap and come in order."""
    nodes: list[Node] = []
    done = 0
    for one in splices:
        nodes += (*graph.nodes[done : one.first], *one.nodes)
        done = one.end
    return graph.with_nodes((*nodes, *graph.nodes[done:]))


def _require_convex(stretch: Graph, members: set[str]) -> None:
    """No path between members may lead through another node. Raises Refused."""
    import networkx as nx

    inside = [i for i, node in enumerate(stretch.nodes) if node.name in members]
    dag = dependence(stretch)
    below = set[int]().union(*(nx.descendants(dag, i) for i in inside)) - set(inside)
    above = set[int]().union(*(nx.ancestors(dag, i) for i in inside)) - set(inside)
    if below & above:
        between = stretch.nodes[min(below & above)].name
        raise Refused(f"expected a convex match, got %{between} on a path between its nodes")


def fuse_all(
    graph: Graph,
    rule: str,
    is_anchor: Callable[[Graph, Node], bool],
    match: Callable[[Graph, Node], Match],
) -> PassResult:
    """Try a rule at every anchor; each success rewrites, each refusal is a remark.

    Matches that do not interleave are rewritten together; the others wait for the next round.

    Args:
        graph: searched in execution order; the result is at stage `fused`.
        rule: the rule's name in remarks.
        is_anchor: whether the rule looks at a node at all.
        match: what to fuse around an anchor; raises Refused.
    """
    remarks: list[Remark] = []
    before, graph = graph, at_stage(graph, "fused")
    waiting = [node.name for node in graph.nodes if is_anchor(graph, node)]
    candidates = len(waiting)
    while waiting:
        splices: list[Splice] = []
        later: list[str] = []
        for name in waiting:
            anchor = graph.producers[name]
            layer = anchor.origin.layer
            try:
                found = match(graph, anchor)
                escaping(graph, found)
                made = fuse(graph, found)
            except Refused as refusal:
                remarks.append(Remark(rule, "refused", name, layer, str(refusal)))
                continue
            if splices and made.first < splices[-1].end:
                later.append(name)
                continue
            splices.append(made)
            text = f"{found.kind} of {len(found.nodes)} nodes"
            remarks.append(Remark(rule, "applied", found.outputs[0], layer, text))
        graph = _splice(graph, splices) if splices else graph
        waiting = later
    return PassResult(graph, graph is not before, tuple(remarks), candidates)


def escaping(graph: Graph, match: Match) -> None:
    """Values made inside and needed outside must be results of the match. Raises Refused."""
    members = {node.name for node in match.nodes}
    for node in match.nodes:
        for value in (value for value in node.outputs if value not in match.outputs):
            users = [user for user in graph.consumers.get(value, ()) if user.name not in members]
            if users or value in graph.outputs:
                who = f"%{users[0].name}" if users else "the graph's outputs"
                raise Refused(f"expected %{value} to stay inside the fusion, got {who} using it")


def chain_up(graph: Graph, value: str, ops: Sequence[str]) -> list[Node]:
    """Producers of a value through operand 0, one per op, nearest first. Raises Refused."""
    found: list[Node] = []
    for op in ops:
        node = producer(graph, value, op)
        found.append(node)
        value = node.inputs[0]
    return found
