"""How many kernels a layer takes: what the fusions are for."""

from __future__ import annotations

from collections import Counter

import pytest

from dsv4c.models.deepseek_v4.build import BuildOptions, build_graph
from dsv4c.models.deepseek_v4.config import parse_config
from dsv4c.models.deepseek_v4.inventory import logical_weights
from dsv4c.models.deepseek_v4.names import TensorSlice, WeightSource
from dsv4c.models.deepseek_v4.released import read_config
from dsv4c.passes.base import run_passes
from dsv4c.pipeline import largest_step, pipeline

MOST = {"csa": 14, "hca": 12, "swa": 12}


@pytest.mark.parametrize("model", ["flash", "pro"])
def test_nodes_of_a_layer(model: str) -> None:
    """A node is one launch in decode; a view is none."""
    config, options = parse_config(read_config(model)), BuildOptions()
    sources = {
        name: WeightSource(
            weight.formats[0],
            weight.shape,
            (("weight", (TensorSlice(name if weight.bare else f"{name}.weight"),)),),
        )
        for name, weight in logical_weights(config).items()
    }
    passes = pipeline("cpu", largest_step(options.chunk))
    graph, _ = run_passes(build_graph(config, sources, options), passes)
    nodes = Counter(node.origin.layer for node in graph.nodes if node.op != "view")
    found = {
        kind: {nodes[i] for i, layer in enumerate(config.layers) if layer.kind == kind}
        for kind in MOST
    }
    assert all(max(counts, default=0) <= MOST[kind] for kind, counts in found.items()), found
    assert nodes[None] <= 4
