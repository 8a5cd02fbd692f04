"""The floor of whole layers against figures made by hand (deepseek-v4.md 8.2)."""

from __future__ import annotations

from functools import cache

import pytest

from dsv4c.bench.step import layer_spans
from dsv4c.ir.cost import region_cost
from dsv4c.ir.graph import Graph
from dsv4c.ir.op import Cost
from dsv4c.models.deepseek_v4.build import BuildOptions, build_graph
from dsv4c.passes.base import run_passes
from dsv4c.pipeline import largest_step, pipeline
from dsv4c.source import random_source

# MB of weights of a Flash layer, fp8 attention: wq_a, wkv, wq_b, wo_a, wo_b, router, shared expert
SHARED = 4.195 + 2.097 + 33.556 + 33.556 + 33.556 + 2.097 + 25.167
# compressors, and of CSA the indexer
KINDS = {"swa": 0.0, "csa": 16.777 + 8.389 + 4.719, "hca": 8.389}
NVFP4 = 80.216 * 0.5625 / 0.53125
"""Six of 256 experts."""


@cache
def flash() -> Graph:
    source = random_source("flash", [0, 2, 3])
    graph = build_graph(source.config, source.ledger.weights, BuildOptions())
    final, _ = run_passes(graph, pipeline("sm_90a", largest_step(512), graph.stage))
    return final


def layer_cost(layer: int, sequences: int, context: int) -> Cost:
    nodes = [node for node in flash().nodes if node.op != "view"]
    first, end = layer_spans(nodes)[layer]
    env = {"T": sequences, "R": sequences, "S": sequences, "P": context // 128}
    return region_cost(flash(), nodes[first:end], env)


def megabytes(cost: Cost) -> float:
    return (cost.read + cost.write) / 1e6


@pytest.mark.parametrize(("layer", "kind"), list(enumerate(KINDS)))
def test_one_sequence_is_weights(layer: int, kind: str) -> None:
    """At 32,768 tokens: 128, 128 + 512 and 128 + 256 entries of 584 bytes; index keys of 68 bytes."""
    entries = {"swa": 128, "csa": 640, "hca": 384}[kind] * 584 / 1e6
    keys = 8192 * 68 / 1e6 if kind == "csa" else 0.0
    expected = SHARED + KINDS[kind] + NVFP4 + entries + keys
    # four streams of 4,096 in and out, fn of two hyper-connections, norms, scales
    assert megabytes(layer_cost(layer, 1, 32768)) == pytest.approx(expected + 3.4, abs=1.3)


def test_a_batch_reads_its_experts_and_caches() -> None:
    """64 tokens choose 199.9 of 256 experts; each has its own entries and keys."""
    experts = NVFP4 / 6 * 199.9
    caches = 64 * (640 * 584 + 8192 * 68) / 1e6
    streams = 64 * 2 * 4 * 4096 * 4 / 1e6  # in and out, f32
    expected = SHARED + KINDS["csa"] + experts + caches
    found = megabytes(layer_cost(1, 64, 32768))
    assert found == pytest.approx(expected + streams, rel=0.005)
    # 988 us at 3 TB/s with MXFP4 experts (performance.md 1): 2.96 GB
    assert found / (2960 * 0.5625 / 0.53125) == pytest.approx(1.0, abs=0.05)


def test_arithmetic_of_a_token() -> None:
    """MFLOP of a CSA layer at 32,768 tokens: linears, six experts, 640 rows, 8,192 keys."""
    linears = 8.39 + 4.19 + 67.11 + 16.78 + 16.78 + 4.72 + 67.11 + 67.11 + 2.10 + 50.33
    expected = linears + 301.99 + 83.89 + 543.16 / 4
    assert layer_cost(1, 1, 32768).flops / 1e6 == pytest.approx(expected, rel=0.02)
