"""The weights of a graph: formats, sizes and the checkpoint tensors behind them; no bytes read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

from dsv4c.ir.graph import Graph
from dsv4c.ir.types import WeightType
from dsv4c.report.selection import Selection, layer_of


class WeightView(TypedDict):
    name: str
    layer: int | None
    format: str
    dims: list[int]
    parameters: int
    bytes: int
    tensors: list[str]


class FormatView(TypedDict):
    format: str
    weights: int
    parameters: int
    bytes: int


class WeightsView(TypedDict):
    formats: list[FormatView]
    weights: list[WeightView]


def weights_view(graph: Graph, selection: Selection) -> WeightsView:
    """The selected weights, and their sums by format, largest first."""
    weights = [
        weight
        for name in graph.weights
        if selection.takes((weight := _weight(name, graph))["layer"], name, *weight["tensors"])
    ]
    return {"formats": sum_formats(weights), "weights": weights}


def sum_formats(weights: Sequence[WeightView]) -> list[FormatView]:
    """Sums over the weights of each format, largest first."""
    names = dict.fromkeys(weight["format"] for weight in weights)
    formats = [_sum(name, [w for w in weights if w["format"] == name]) for name in names]
    return sorted(formats, key=lambda view: -view["bytes"])


def _weight(name: str, graph: Graph) -> WeightView:
    type_ = graph.types[name]
    assert isinstance(type_, WeightType)
    return {
        "name": name,
        "layer": layer_of(name, graph),
        "format": type_.format,
        "dims": list(type_.dims),
        "parameters": math.prod(type_.dims),
        "bytes": type_.nbytes({}),
        "tensors": list(graph.sources.get(name, ())),
    }


def _sum(name: str, weights: list[WeightView]) -> FormatView:
    return {
        "format": name,
        "weights": len(weights),
        "parameters": sum(weight["parameters"] for weight in weights),
        "bytes": sum(weight["bytes"] for weight in weights),
    }
