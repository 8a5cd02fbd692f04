"""Angles and entries of all layers become one node at the start: text, order, refusals, kernels."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dsv4c.codegen.kernels import step_metadata as family
from dsv4c.codegen.lower import node_facts
from dsv4c.ir.graph import Graph
from dsv4c.ir.text import parse, show
from dsv4c.ir.verify import verify
from dsv4c.models.deepseek_v4.config import Kind, ModelConfig
from dsv4c.passes.base import Pass, run_passes
from dsv4c.passes.canonicalize import Canonicalize
from dsv4c.passes.common_subexpressions import CommonSubexpressions
from dsv4c.passes.dead_code import DeadCode
from dsv4c.passes.fuse_step_metadata import KIND, OPS, FuseStepMetadata

CLEAN: tuple[Pass, ...] = (Canonicalize(), CommonSubexpressions(), DeadCode())
TEXT = """\
graph "step" stage(model) {
  in %pos: i32[T]
  in %slot: i32[T]
  in %block_table: i32[S, P]
  in %x: bf16[T, 16]
  %angles: f32[T, 16] = rope_angles(%pos) {dims=16, theta=10000.0} @ L0
  %y: bf16[T, 16] = rope(%x, %angles) @ L0
  %where: i32[T] = entry_slots(%pos, %slot, %block_table) {ratio=4, page=32} @ L1
  return %y, %where
}
"""


def test_one_node_before_its_first_user() -> None:
    graph = parse(TEXT)
    verify(graph)
    result = FuseStepMetadata().run(graph)
    verify(result.graph, "fuse_step_metadata")
    node, rope = result.graph.nodes
    assert (node.kind, node.outputs, rope.op) == (f"fused.{KIND}", ("angles", "where"), "rope")
    assert node.inputs == ("pos", "slot", "block_table")
    assert (node.origin.layer, node.origin.tensors) == (None, ())
    assert (node.attrs["op0"], node.attrs["theta0"], node.attrs["op1"]) == (
        *("rope_angles", 10000.0),
        "entry_slots",
    )
    assert [(one.status, one.node, one.text) for one in result.remarks] == [
        ("applied", "angles", "step_metadata of 2 nodes")
    ]
    assert parse(show(result.graph)) == result.graph
    again = FuseStepMetadata().run(result.graph)
    assert not again.modified
    assert again.graph == result.graph


def test_other_positions_are_refused() -> None:
    graph = parse(TEXT.replace("rope_angles(%pos)", "rope_angles(%slot)"))
    result = FuseStepMetadata().run(graph)
    assert [node.op for node in result.graph.nodes] == ["rope_angles", "rope", "entry_slots"]
    (remark,) = result.remarks
    steps = "('pos', 'slot', 'block_table')"
    assert remark.text == f"expected rope_angles of {steps}, got ('slot',)"


@pytest.mark.parametrize("kind", ["swa", "csa", "hca"])
def test_golden(
    kind: Kind, layer_graph: Callable[[Kind], Graph], golden: Callable[[str, str], None]
) -> None:
    before, _ = run_passes(layer_graph(kind), CLEAN)
    result = FuseStepMetadata().run(before)
    verify(result.graph, "fuse_step_metadata")
    golden(f"passes/{kind}/fuse_step_metadata.ir", show(result.graph))


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("tiny", "step_metadata_a4_w128_c128_c4_v128"),
        ("flash", "step_metadata_a4_w128_c4_c128_v128"),
        ("pro", "step_metadata_a3_w128_c128_c4_v128"),
    ],
)
def test_whole_models(
    name: str,
    kernel: str,
    model_config: Callable[[str], ModelConfig],
    model_graph: Callable[..., Graph],
) -> None:
    before, _ = run_passes(model_graph(model_config(name)), CLEAN)
    graph = FuseStepMetadata().run(before).graph
    assert not {node.op for node in graph.nodes} & {*OPS}
    assert [i for i, one in enumerate(graph.nodes) if one.attrs.get("kind") == KIND] == [0]
    node = graph.nodes[0]
    params = family.select(node_facts(node, graph.types), "sm_90a")
    assert isinstance(params, family.Params)
    assert family.kernel_name(params, "sm_90a") == kernel
