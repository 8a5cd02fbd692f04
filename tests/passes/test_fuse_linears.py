"""Linears that share their input become one node: text, order of operands, and what is left alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from dsv4c.ir.graph import Graph
from dsv4c.ir.text import parse, show
from dsv4c.ir.verify import verify
from dsv4c.models.deepseek_v4.config import Kind, ModelConfig
from dsv4c.passes.base import Pass, run_passes
from dsv4c.passes.canonicalize import Canonicalize
from dsv4c.passes.common_subexpressions import CommonSubexpressions
from dsv4c.passes.dead_code import DeadCode
from dsv4c.passes.fuse_linears import KIND, FuseLinears

CLEAN: tuple[Pass, ...] = (Canonicalize(), CommonSubexpressions(), DeadCode())
TEXT = """\
graph "linears" stage(model) {
  in %x: bf16[T, 8]
  in %a: weight<bf16>[4, 8] = "a.weight"
  in %b: weight<bf16>[8, 8] = "b.weight"
  in %c: weight<bf16>[2, 8] = "c.weight"
  in %d: weight<bf16>[2, 8] = "d.weight"
  in %n: weight<bf16>[8] = "n.weight"
  %y_a: bf16[T, 4] = linear(%x, %a) @ L3 "a.weight"
  %y_b: bf16[T, 8] = linear(%x, %b) @ L3 "b.weight"
  %normed: bf16[T, 8] = rms_norm(%y_b, %n) {eps=1e-06} @ L3 "n.weight"
  %y_d: bf16[T, 2] = linear(%normed, %d) @ L3 "d.weight"
  %y_c: f32[T, 2] = linear(%x, %c) {dtype="f32"} @ L3 "c.weight"
  return %y_a, %y_c, %y_d
}
"""


def fused(graph: Graph) -> Graph:
    result = FuseLinears().run(graph)
    verify(result.graph, "fuse_linears")
    assert {remark.status for remark in result.remarks} <= {"applied"}
    return result.graph


def test_linears_of_one_input_are_one_node() -> None:
    graph = parse(TEXT)
    verify(graph)
    result = FuseLinears().run(graph)
    verify(result.graph, "fuse_linears")
    nodes = [
        (node.attrs.get("kind", node.op), node.inputs, node.outputs) for node in result.graph.nodes
    ]
    assert nodes == [
        (KIND, ("x", "a", "b", "c"), ("y_a", "y_b", "y_c")),
        ("rms_norm", ("y_b", "n"), ("normed",)),
        (KIND, ("normed", "d"), ("y_d",)),
    ]
    assert [(one.node, one.layer, one.text) for one in result.remarks] == [
        ("y_a", 3, "linears of 3 nodes"),
        ("y_d", 3, "linears of 1 nodes"),
    ]
    assert result.graph.nodes[0].origin.tensors == ("a.weight", "b.weight", "c.weight")
    assert str(result.graph.types["y_c"]) == "f32[T, 2]"


def test_its_own_result_is_left_alone() -> None:
    once = fused(parse(TEXT))
    result = FuseLinears().run(once)
    assert not result.modified
    assert result.graph == once


@pytest.mark.parametrize("kind", ["swa", "csa", "hca"])
def test_golden(
    kind: Kind, layer_graph: Callable[[Kind], Graph], golden: Callable[[str, str], None]
) -> None:
    before, _ = run_passes(layer_graph(kind), CLEAN)
    golden(f"passes/{kind}/fuse_linears.ir", show(fused(before)))


@pytest.mark.parametrize("name", ["tiny", "flash", "pro"])
def test_every_linear_is_taken(
    name: str,
    model_config: Callable[[str], ModelConfig],
    model_graph: Callable[..., Graph],
) -> None:
    before, _ = run_passes(model_graph(model_config(name)), CLEAN)
    after = fused(before)
    ops = Counter(node.op for node in before.nodes)
    assert not any(node.op == "linear" for node in after.nodes)
    bodies = [node.body for node in after.nodes if node.body is not None]
    assert sum(len(body.nodes) for body in bodies) == ops["linear"]
    assert len({node.inputs[0] for node in after.nodes if node.body is not None}) == len(bodies)
