"""The three fusions of hyper-connections: text before and after, in every model, and every refusal."""

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
from dsv4c.passes.fuse_mhc_first import FuseMhcFirst
from dsv4c.passes.fuse_mhc_head import FuseMhcHead
from dsv4c.passes.fuse_mhc_seam import FuseMhcSeam

FIRST, SEAM, HEAD = FuseMhcFirst(), FuseMhcSeam(), FuseMhcHead()
CLEAN: tuple[Pass, ...] = (Canonicalize(), CommonSubexpressions(), DeadCode())
LAYERS = {"tiny": 5, "flash": 43, "pro": 61}
SITE = """\
  %{0}mix: f32[T, 24] = mhc_mix(%{1}, %{0}fn) {{eps=1e-06}} @ L{2} "{0}fn"
  %{0}pre: f32[T, 4], %{0}post: f32[T, 4], %{0}comb: f32[T, 4, 4] = mhc_coefficients(%{0}mix, %{0}base, %{0}scale) {{streams=4, iters=20, eps=1e-06}} @ L{2} "{0}base" "{0}scale"
  %{0}collapsed: bf16[T, 8] = mhc_collapse(%{1}, %{0}pre) @ L{2}
  %{0}x: bf16[T, 8] = rms_norm(%{0}collapsed, %{0}norm) {{eps=1e-06}} @ L{2} "{0}norm.weight"
"""
TEXT = (
    """\
graph "sites" stage(model) {
  in %ids: i32[T]
  in %rows: i32[R]
  in %y1: bf16[T, 8]
  in %y2: bf16[T, 8]
  in %table: weight<bf16>[16, 8] = "embed.weight"
  in %a.fn: weight<f32>[24, 32] = "a.fn"
  in %a.base: weight<f32>[24] = "a.base"
  in %a.scale: weight<f32>[3] = "a.scale"
  in %a.norm: weight<bf16>[8] = "a.norm.weight"
  in %b.fn: weight<f32>[24, 32] = "b.fn"
  in %b.base: weight<f32>[24] = "b.base"
  in %b.scale: weight<f32>[3] = "b.scale"
  in %b.norm: weight<bf16>[8] = "b.norm.weight"
  in %c.fn: weight<f32>[4, 32] = "c.fn"
  in %c.base: weight<f32>[4] = "c.base"
  in %c.scale: weight<f32>[1] = "c.scale"
  in %c.norm: weight<bf16>[8] = "c.norm.weight"
  %embedded: bf16[T, 8] = embed(%ids, %table) {dtype="bf16"} @ "embed.weight"
  %s0: bf16[T, 4, 8] = expand_streams(%embedded) {streams=4}
"""
    + SITE.format("a.", "s0", 3)
    + "  %s1: bf16[T, 4, 8] = mhc_expand(%s0, %y1, %a.post, %a.comb) @ L3\n"
    + SITE.format("b.", "s1", 4)
    + """\
  %s2: bf16[T, 4, 8] = mhc_expand(%s1, %y2, %b.post, %b.comb) @ L4
  %taken: bf16[R, 4, 8] = take_rows(%s2, %rows)
  %c.mix: f32[R, 4] = mhc_mix(%taken, %c.fn) {eps=1e-06} @ "c.fn"
  %c.w: f32[R, 4] = mhc_head_coefficients(%c.mix, %c.base, %c.scale) {eps=1e-06} @ "c.base" "c.scale"
  %c.collapsed: bf16[R, 8] = mhc_collapse(%taken, %c.w)
  %c.x: bf16[R, 8] = rms_norm(%c.collapsed, %c.norm) {eps=1e-06} @ "c.norm.weight"
  return %a.x, %b.x, %c.x
}
"""
)
Change = tuple[str, str]
Golden = Callable[[str, str], None]


def changed(*changes: Change) -> Graph:
    text = TEXT
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    graph = parse(text)
    verify(graph)
    return graph


def returns(value: str) -> Change:
    return "return %a.x", f"return %{value}, %a.x"


@pytest.mark.parametrize(("one", "layer"), [(FIRST, 3), (SEAM, 4), (HEAD, None)])
def test_golden(one: Pass, layer: int | None, golden: Golden) -> None:
    result = one.run(changed())
    verify(result.graph)
    (remark,) = result.remarks
    assert (remark.rule, remark.status, remark.layer) == (one.name, "applied", layer)
    (fused,) = (node for node in result.graph.nodes if node.body is not None)
    assert fused.origin.layer == layer
    golden(f"passes/mhc/{one.name}.ir", show(result.graph))


@pytest.mark.parametrize("kind", ["swa", "csa", "hca"])
def test_a_layer_has_two_sites(kind: Kind, layer_graph: Callable[[Kind], Graph]) -> None:
    graph, _ = run_passes(layer_graph(kind), (*CLEAN, FIRST, SEAM, HEAD))
    kinds = Counter(node.attrs["kind"] for node in graph.nodes if node.body is not None)
    assert kinds == {"mhc_first": 1, "mhc_seam": 1, "mhc_head": 1}
    left = {node.op for node in graph.nodes}
    assert not left & {"embed", "take_rows", "expand_streams"}
    assert not any(op.startswith("mhc_") for op in left)


@pytest.mark.parametrize("name", LAYERS)
def test_every_site_fuses(
    name: str, model_config: Callable[[str], ModelConfig], model_graph: Callable[..., Graph]
) -> None:
    _, records = run_passes(model_graph(model_config(name)), (*CLEAN, FIRST, SEAM, HEAD))
    remarks = {record.name: record.remarks for record in records[3:]}
    assert {one.status for some in remarks.values() for one in some} == {"applied"}
    assert [one.layer for one in remarks[FIRST.name]] == [0]
    sites = [0, *(layer for layer in range(1, LAYERS[name]) for _ in range(2))]
    assert [one.layer for one in remarks[SEAM.name]] == sites
    assert [one.layer for one in remarks[HEAD.name]] == [None]


REFUSALS: dict[str, tuple[Pass, list[Change], str]] = {
    "mix is returned": (
        SEAM,
        [returns("b.mix")],
        "expected %b.mix to be used only by %b.pre, the graph returns it",
    ),
    "weights of the collapse are returned": (
        SEAM,
        [returns("b.pre")],
        "expected %b.pre to be used only by %b.collapsed, the graph returns it",
    ),
    "no norm": (
        SEAM,
        [("rms_norm(%b.collapsed, %b.norm)", "rms_norm(%y2, %b.norm)"), returns("b.collapsed")],
        "expected %b.collapsed to be used by rms_norm, got no such user",
    ),
    "collapsed is returned": (
        SEAM,
        [returns("b.collapsed")],
        "expected %b.collapsed to be used only by %b.x, the graph returns it",
    ),
    "other streams are collapsed": (
        SEAM,
        [("mhc_collapse(%s1, %b.pre)", "mhc_collapse(%s0, %b.pre)")],
        "expected a collapse of %s1, got one of %s0",
    ),
    "no collapse": (
        SEAM,
        [("mhc_collapse(%s1, %b.pre)", "mhc_collapse(%s1, %a.pre)")],
        "expected %b.pre to be used by mhc_collapse, got no such user",
    ),
    "two epsilons": (
        SEAM,
        [
            (
                "rms_norm(%b.collapsed, %b.norm) {eps=1e-06}",
                "rms_norm(%b.collapsed, %b.norm) {eps=1e-05}",
            )
        ],
        "expected one epsilon for both norms, got (1e-06, 1e-05)",
    ),
    "embedding is returned": (
        FIRST,
        [returns("embedded")],
        "expected %embedded to be used only by %s0, the graph returns it",
    ),
    "streams of an input": (
        FIRST,
        [("expand_streams(%embedded)", "expand_streams(%y1)"), returns("embedded")],
        "expected %y1 to come from embed, got a graph input",
    ),
    "last streams are returned": (
        HEAD,
        [returns("s2")],
        "expected %s2 to be used only by %taken, the graph returns it",
    ),
    "rows of other streams": (
        HEAD,
        [("take_rows(%s2, %rows)", "take_rows(%s0, %rows)"), returns("s2")],
        "expected %s0 to come from mhc_expand, got expand_streams",
    ),
    "taken rows are returned": (
        HEAD,
        [returns("taken")],
        "expected %taken to stay inside the fusion, got the graph's outputs using it",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str) -> None:
    one, changes, text = REFUSALS[case]
    graph = changed(*changes)
    result = one.run(graph)
    (remark,) = result.remarks
    assert (remark.status, remark.text) == ("refused", text)
    assert result.graph.nodes == graph.nodes
