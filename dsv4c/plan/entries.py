"""The manifest's entries for a plan's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dsv4c.ir.graph import Graph
from dsv4c.ir.weight_formats import weight_format
from dsv4c.models.deepseek_v4.names import WeightSource
from dsv4c.plan import manifest
from dsv4c.plan.forms import Form


@dataclass(frozen=True, slots=True)
class WrittenWeights:
    """Entries of the manifest for the weight files: by weight, packed forms, hashes by file."""

    weights: dict[str, manifest.Weight]
    packed: list[manifest.Packed]
    files: dict[str, str]


def entries(
    graph: Graph,
    sources: Mapping[str, WeightSource],
    stored: Sequence[Form],
    components: Mapping[str, manifest.Component],
    files: dict[str, str],
) -> WrittenWeights:
    """By weight and by packed form.

    Args:
        graph: says which weights there are.
        sources: format and shape of each.
        stored: in which forms kernels take them.
        components: by key of `Form`.
        files: SHA-256 of the files that hold them.
    """
    parts: dict[Form, list[manifest.Component]] = {}
    for form in stored:
        names = weight_format(sources[form.weights[0]].format).component_names
        parts[form] = [components[f"{form.key}/{part}"] for part in names]
    weights = {
        name: manifest.Weight(
            sources[name].format,
            list(sources[name].shape),
            parts.get(Form((name,)), []),
            list(graph.sources[name]),
        )
        for name in graph.weights
    }
    packed = [
        manifest.Packed(form.packing, list(form.weights), parts[form])
        for form in stored
        if form.packing
    ]
    return WrittenWeights(weights, packed, files)
