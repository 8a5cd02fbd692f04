"""Buffers: shared by values that do not live together, never by those that do."""

from __future__ import annotations

from collections.abc import Callable

from dsv4c.codegen.lower import Lower
from dsv4c.ir.graph import Graph, view_roots
from dsv4c.ir.text import parse, show
from dsv4c.ir.types import TensorType
from dsv4c.ir.verify import verify
from dsv4c.models.deepseek_v4.config import ModelConfig
from dsv4c.passes.assign_buffers import AssignBuffers, buffer_sizes

ENV = {"T": 512, "R": 512, "S": 8, "P": 16, "N": 128}
GRAPH = parse("""\
graph "small" stage(lowered) {
  in %x: f32[T, 64]
  in %where: i32[T]
  in %cache: cache<bf16, width=64, rope=0, page=32, paged>
  %input_view: f32[T, 8, 8] = view(%x) {shape=[8, 8]} ! reference
  %normed_view: f32[T, 8, 8] = head_norm(%input_view) ! reference
  %a: f32[T, 64] = head_norm(%x) ! reference
  %b: f32[T, 64] = head_norm(%a) ! reference
  %view_of_b: f32[T, 64, 1] = view(%b) {shape=[64, 1]} ! reference
  %cache.1: cache<bf16, width=64, rope=0, page=32, paged> = insert_rows(%cache, %a, %where) ! reference
  %wide: f32[T, 128] = concat(%a, %b) ! reference
  %unused: f32[T, 128] = head_norm(%wide) {eps=0.5} ! reference
  %c: f32[T, 128] = head_norm(%wide) ! reference
  %last: f32[T, 64, 1] = head_norm(%view_of_b) ! reference
  return %c, %last, %cache.1
}
""")


def test_golden(golden: Callable[[str, str], None]) -> None:
    verify(GRAPH)
    planned = AssignBuffers({"T": 4}).run(GRAPH).graph
    verify(planned)
    golden("passes/assign_buffers/before.ir", show(GRAPH))
    golden("passes/assign_buffers/after.ir", show(planned))


def test_views_share_and_states_have_none() -> None:
    planned = AssignBuffers({"T": 4}).run(GRAPH).graph
    buffers = {node.name: node.buffers for node in planned.nodes}
    assert buffers["input_view"] == buffers["cache.1"] == (-1,)
    assert buffers["view_of_b"] == buffers["b"]
    assert buffers["unused"] != buffers["wide"]


def test_sizes_follow_the_step() -> None:
    planned = AssignBuffers({"T": 4}).run(GRAPH).graph
    small, large = buffer_sizes(planned, {"T": 1}), buffer_sizes(planned, {"T": 512})
    assert large == [512 * size for size in small]
    tensors = [planned.types[value] for node in planned.nodes for value in node.outputs]
    assert sum(large) < sum(t.nbytes({"T": 512}) for t in tensors if isinstance(t, TensorType))


def test_a_model_needs_no_more_than_its_widest_moment(
    model_config: Callable[[str], ModelConfig], model_graph: Callable[..., Graph]
) -> None:
    """Five layers share buffers: all of them together need little more than the busiest node."""
    lowered = Lower("cpu").run(model_graph(model_config("tiny"))).graph
    planned = AssignBuffers(ENV).run(lowered).graph
    verify(planned)
    root = view_roots(planned)
    last = {root[value]: i for i, node in enumerate(planned.nodes) for value in node.inputs}
    live: dict[str, int] = {}
    peak = 0
    for i, node in enumerate(planned.nodes):
        for value in node.outputs:
            type_ = planned.types[value]
            if isinstance(type_, TensorType) and root[value] == value:
                live[value] = type_.nbytes(ENV)
        peak = max(peak, sum(live.values()))
        live = {value: size for value, size in live.items() if last.get(value, 0) > i}
    held = sum(buffer_sizes(planned, ENV))
    assert peak <= held <= 1.5 * peak
