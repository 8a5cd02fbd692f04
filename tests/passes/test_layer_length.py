"""How many kernels a layer takes: what the fusions are for."""

from __future__ import annotations

from collections import Counter

import bare
import pytest

from dsv4c.models.deepseek_v4.build import BuildOptions
from dsv4c.models.deepseek_v4.config import parse_config
from dsv4c.models.deepseek_v4.released import read_config
from dsv4c.passes.base import run_passes
from dsv4c.pipeline import largest_step, pipeline

MOST = {"csa": 14, "hca": 12, "swa": 12}


@pytest.mark.parametrize("model", ["flash", "pro"])
def test_nodes_of_a_layer(model: str) -> None:
    """A node is one launch in decode; a view is none."""
    config, options = parse_config(read_config(model)), BuildOptions()
    passes = pipeline("cpu", largest_step(options.chunk))
    graph, _ = run_passes(bare.build(config, options), passes)
    nodes = Counter(node.origin.layer for node in graph.nodes if node.op != "view")
    found = {
        kind: {nodes[i] for i, layer in enumerate(config.layers) if layer.kind == kind}
        for kind in MOST
    }
    assert all(max(counts, default=0) <= MOST[kind] for kind, counts in found.items()), found
    assert nodes[None] <= 4
