"""canonicalize, common_subexpressions and dead_code: text before and after on small graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from dsv4c.ir.builder import GraphBuilder
from dsv4c.ir.cache import CacheLayout
from dsv4c.ir.graph import Graph
from dsv4c.ir.text import parse, show
from dsv4c.ir.types import CacheType, Sym, TensorType, WeightType
from dsv4c.ir.verify import verify
from dsv4c.passes.base import Pass, Remark
from dsv4c.passes.canonicalize import Canonicalize
from dsv4c.passes.common_subexpressions import CommonSubexpressions
from dsv4c.passes.dead_code import DeadCode

T = Sym("T")


def layers() -> Graph:
    """Two layers with equal angles, chains of views, unused values, one cache written twice."""
    g = GraphBuilder("layers")
    g.step_input("pos", TensorType("i32", (T,)))
    x = g.step_input("x", TensorType("bf16", (T, 64)))
    w = g.weight("w", WeightType("bf16", (64, 64)), ["w.weight"])
    g.weight("unused", WeightType("f32", (8,)), ["unused"])
    cache = g.state("cache", CacheType(CacheLayout("bf16", 64, 0, 32)))
    for number in range(2):
        with g.scope(f"L{number}", number):
            angles = g.add("rope_angles", "angles", "pos", dims=8, theta=1e4)
            flat = g.add("view", "flat", g.add("view", "heads", x, shape=(8, 8)), shape=(64,))
            y = g.add("linear", "y", flat, w)
            g.add("head_norm", "unused", y)
            r = g.add("rope", "r", y, angles)
            g.write("insert_rows", cache, r, "pos")
            rows = g.add(
                "gather_rows", "rows", cache, g.add("view", "index", "pos", shape=(1,)), width=64
            )
            x = g.add("view", "x", rows, shape=(64,))
    return g.finish(x)


PASSES: list[Pass] = [Canonicalize(), CommonSubexpressions(), DeadCode()]


@pytest.mark.parametrize("one", PASSES, ids=lambda one: one.name)
def test_golden(one: Pass, golden: Callable[[str, str], None]) -> None:
    before = layers()
    verify(before)
    result = one.run(before)
    assert result.modified
    verify(result.graph, one.name)
    golden("passes/cleanup/before.ir", show(before))
    golden(f"passes/cleanup/{one.name}.ir", show(result.graph))


@pytest.mark.parametrize("one", PASSES, ids=lambda one: one.name)
def test_idempotent(one: Pass) -> None:
    once = one.run(layers()).graph
    twice = one.run(once)
    assert not twice.modified
    assert twice.graph == once
    assert twice.remarks == ()


def test_canonicalize_spells_attributes_and_merges_views() -> None:
    result = Canonicalize().run(layers())
    assert result.graph.producers["L0.angles"].attrs["beta_fast"] == 32.0
    assert "L0.flat" not in result.graph.producers, "64 -> 8x8 -> 64 changes nothing"
    assert result.graph.producers["L0.y"].inputs == ("x", "w")
    assert (
        Remark("merge_views", "applied", "L0.flat", 0, "removed, it changes nothing")
        in result.remarks
    )


def test_canonicalize_keeps_a_view_that_the_graph_returns() -> None:
    g = GraphBuilder("view")
    x = g.step_input("x", TensorType("bf16", (T, 64)))
    result = Canonicalize().run(g.finish(g.add("view", "same", x, shape=(64,))))
    assert [node.name for node in result.graph.nodes] == ["same"]


def test_common_subexpressions_keep_the_first_and_leave_states_alone() -> None:
    result = CommonSubexpressions().run(layers())
    assert [node.op for node in result.graph.nodes].count("rope_angles") == 1
    assert [node.op for node in result.graph.nodes].count("insert_rows") == 2
    assert result.graph.producers["L0.angles"].origin.layer is None
    assert Remark("merge_equal", "applied", "L0.angles", None, "serves 2 uses") in result.remarks


def test_dead_code_removes_chains_and_unread_weights() -> None:
    result = DeadCode().run(layers())
    assert {remark.node for remark in result.remarks} == {"L0.unused", "L1.unused"}
    assert all(remark.text == "head_norm reaches no output" for remark in result.remarks)
    assert result.graph.weights == ["w"]
    assert "unused" not in result.graph.sources
    assert result.graph.inputs[:2] == ("pos", "x"), "step inputs stay"


FUSED = parse("""\
graph "fused" stage(fused) {
  in %x: bf16[T, 8]
  in %angles: f32[T, 8]
  %a: bf16[T, 8] = head_norm(%x)
  %same: bf16[T, 8] = view(%a) {shape=[8]}
  %b: bf16[T, 8] = head_norm(%x)
  %y: bf16[T, 8] = fused.norm_rope(%same, %angles) {
    %n: bf16[T, 8] = head_norm(%same)
    %y: bf16[T, 8] = rope(%n, %angles)
  }
  %z: bf16[T, 8] = fused.norm_rope(%b, %angles) {
    %n: bf16[T, 8] = head_norm(%b)
    %z: bf16[T, 8] = rope(%n, %angles)
  }
  return %y, %z
}
""")


@pytest.mark.parametrize("one", PASSES, ids=lambda one: one.name)
def test_fused_bodies_follow_renamed_values(one: Pass) -> None:
    verify(FUSED)
    result = one.run(FUSED)
    verify(result.graph, one.name)
    node = {"canonicalize": "y", "common_subexpressions": "z"}.get(one.name)
    if node is not None:
        body = result.graph.producers[node].body
        assert body is not None
        assert body.inputs == ("a", "angles")
        assert body.nodes[0].inputs == ("a",)


def test_dead_code_drops_nothing_that_is_needed() -> None:
    graph = replace(FUSED, outputs=("y",))
    assert [node.name for node in DeadCode().run(graph).graph.nodes] == ["a", "same", "y"]
