"""How many kernels a layer takes: what the fusions are for."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import bare
import networkx as nx
import pytest

from dsv4c.ir.graph import Graph, dependence
from dsv4c.models.deepseek_v4.build import BuildOptions
from dsv4c.models.deepseek_v4.config import ModelConfig, parse_config
from dsv4c.models.deepseek_v4.released import read_config
from dsv4c.passes.base import run_passes
from dsv4c.pipeline import largest_step, pipeline

MOST = {"csa": 14, "hca": 12, "swa": 12}


def planned(model: str) -> tuple[ModelConfig, Graph]:
    config, options = parse_config(read_config(model)), BuildOptions()
    passes = pipeline("cpu", largest_step(options.chunk))
    return config, run_passes(bare.build(config, options), passes)[0]


@pytest.mark.parametrize("model", ["flash", "pro"])
def test_nodes_of_a_layer(model: str) -> None:
    """A node is one launch in decode; a view is none."""
    config, graph = planned(model)
    nodes = Counter(node.origin.layer for node in graph.nodes if node.op != "view")
    found = {
        kind: {nodes[i] for i, layer in enumerate(config.layers) if layer.kind == kind}
        for kind in MOST
    }
    assert all(max(counts, default=0) <= MOST[kind] for kind, counts in found.items()), found
    assert nodes[None] <= 4


@pytest.mark.parametrize("model", ["flash", "pro"])
def test_there_is_no_work_for_a_second_stream(model: str) -> None:
    """Each node needs the one before it, but for the step's metadata, which the first kernels do not."""
    _, graph = planned(model)
    nodes = [node for node in graph.nodes if node.op != "view"]
    needed = dependence(graph)
    places = [graph.places[node.name] for node in nodes]
    apart = [i for i, pair in enumerate(pairwise(places)) if not nx.has_path(needed, *pair)]
    assert [nodes[i].kind for i in apart] == ["fused.step_metadata"]
