"""Memory: what the weights take, each state per sequence and per 128 tokens, and a step's arena."""

from __future__ import annotations

from typing import TypedDict

from dsv4c.ir.graph import Graph
from dsv4c.ir.types import CacheType, RowsType
from dsv4c.report.arena import ArenaView, arena_view
from dsv4c.report.selection import Selection, layer_of

PAGE_TOKENS = 128
"""Tokens that one logical page of the block table covers."""


class StateView(TypedDict):
    name: str
    layer: int | None
    type: str
    bytes_per_slot: int
    bytes_per_page: int


class MemoryView(TypedDict):
    """`arena` is None before the graph is planned."""

    weights: int
    states: list[StateView]
    bytes_per_slot: int
    bytes_per_page: int
    page_tokens: int
    arena: ArenaView | None


def memory_view(graph: Graph, selection: Selection) -> MemoryView:
    """Bytes of all weights, and of the selected states with their sums.

    A session for S sequences of L tokens keeps S * bytes_per_slot + (1 + S * ceil(L / page_tokens))
    * bytes_per_page bytes of state, and an arena for its own largest step.
    """
    states = [_state(name, graph) for name in graph.states]
    states = [view for view in states if selection.takes(view["layer"], view["name"])]
    return {
        "weights": sum(graph.types[name].nbytes({}) for name in graph.weights),
        "states": states,
        "bytes_per_slot": sum(view["bytes_per_slot"] for view in states),
        "bytes_per_page": sum(view["bytes_per_page"] for view in states),
        "page_tokens": PAGE_TOKENS,
        "arena": _arena(graph, selection) if graph.step else None,
    }


def _arena(graph: Graph, selection: Selection) -> ArenaView:
    view = arena_view(graph)
    kept = [one for one in view["intervals"] if selection.takes(one["layer"], one["value"])]
    return {**view, "intervals": kept}


def _state(name: str, graph: Graph) -> StateView:
    type_ = graph.types[name]
    assert isinstance(type_, CacheType | RowsType)
    none, one = {"S": 0, "N": 0}, type_.nbytes
    return {
        "name": name,
        "layer": layer_of(name, graph),
        "type": str(type_),
        "bytes_per_slot": one(none | {"S": 1}),
        "bytes_per_page": one(none | {"N": 1}),
    }
