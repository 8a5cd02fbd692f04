"""Every guard of the fusions, tripped once: the remark says what was expected and what is there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsv4c.ir.graph import Graph
from dsv4c.ir.text import parse
from dsv4c.ir.verify import verify
from dsv4c.passes.base import Pass, PassResult
from dsv4c.passes.fuse_gather_gemm import FuseGatherGemm
from dsv4c.passes.fuse_inverse_rope_wo_a import FuseInverseRopeWoA
from dsv4c.passes.fuse_qnorm_rope_quant import FuseQnormRopeQuant

QNORM, GATHER, WO_A = FuseQnormRopeQuant(), FuseGatherGemm(), FuseInverseRopeWoA()
RING = "cache<bf16, width=80, rope=16, page=128, ring=256>"
PAGED = "cache<bf16, width=80, rope=16, page=32, paged>"
TEXT = f"""\
graph "attention" stage(model) {{
  in %q: bf16[T, 2, 80]
  in %kv: bf16[T, 80]
  in %angles: f32[T, 16]
  in %other_angles: f32[T, 16]
  in %where: i32[T]
  in %seen: i32[T, 128]
  in %chosen: i32[T, 8]
  in %kv_norm: weight<bf16>[80] = "kv_norm.weight"
  in %sink: weight<f32>[2] = "attn_sink"
  in %w: weight<bf16>[80, 160] = "w.weight"
  in %wo_a: weight<bf16>[6, 80] = "wo_a.weight"
  in %window: {RING}
  in %cache: {PAGED}
  %q_normed: bf16[T, 2, 80] = head_norm(%q) {{eps=1e-06}}
  %q_roped: bf16[T, 2, 80] = rope(%q_normed, %angles) {{inverse=false}}
  %kv_normed: bf16[T, 80] = rms_norm(%kv, %kv_norm) {{eps=1e-06}} @ L3 "kv_norm.weight"
  %kv_roped: bf16[T, 80] = rope(%kv_normed, %angles) {{inverse=false}}
  %window.1: {RING} = insert_rows(%window, %kv_roped, %where) @ L3
  %near: bf16[T, 128, 80] = gather_rows(%window.1, %seen) {{width=80}}
  %far: bf16[T, 8, 80] = gather_rows(%cache, %chosen) {{width=80}}
  %rows: bf16[T, 136, 80] = concat(%near, %far)
  %index: i32[T, 136] = concat(%seen, %chosen)
  %scores: f32[T, 2, 136] = attention_scores(%q_roped, %rows, %index) {{scale=0.125}}
  %probs: f32[T, 2, 136] = sink_softmax(%scores, %sink) @ "attn_sink"
  %o: bf16[T, 2, 80] = attention_values(%probs, %rows) @ L3
  %turned: bf16[T, 2, 80] = rope(%o, %angles) {{inverse=true}}
  %groups: bf16[T, 2, 80] = view(%turned) {{shape=[2, 80]}}
  %z: bf16[T, 6] = grouped_linear(%groups, %wo_a) @ L3 "wo_a.weight"
  return %z, %window.1
}}
"""
Change = tuple[str, str]


def changed(*changes: Change) -> Graph:
    text = TEXT
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    graph = parse(text)
    verify(graph)
    return graph


def returns(*values: str) -> Change:
    return "return %z", "return %z, " + ", ".join(f"%{value}" for value in values)


def after(value: str, line: str) -> Change:
    """One more node behind the one that makes `value`."""
    start = next(part for part in TEXT.splitlines() if part.startswith(f"  %{value}: "))
    return start, f"{start}\n  {line}"


@pytest.mark.parametrize("one", [QNORM, GATHER, WO_A], ids=lambda one: one.name)
def test_the_unchanged_graph_fuses(one: Pass) -> None:
    result = one.run(changed())
    verify(result.graph)
    (remark,) = result.remarks
    assert (remark.rule, remark.status, remark.layer) == (one.name, "applied", 3)


REFUSALS: dict[str, tuple[Pass, list[Change], str]] = {
    "normed q is used": (
        QNORM,
        [after("q_normed", "%also: bf16[T, 2, 80] = head_norm(%q_normed)"), returns("also")],
        "expected %q_normed to be used only by %q_roped, also used by %also",
    ),
    "normed q is returned": (
        QNORM,
        [returns("q_normed")],
        "expected %q_normed to be used only by %q_roped, the graph returns it",
    ),
    "other angles": (
        QNORM,
        [("rope(%q_normed, %angles)", "rope(%q_normed, %other_angles)")],
        "expected q and kv to share %angles, got %other_angles",
    ),
    "other epsilon": (
        QNORM,
        [("rms_norm(%kv, %kv_norm) {eps=1e-06}", "rms_norm(%kv, %kv_norm) {eps=1e-05}")],
        "expected one epsilon for both norms, got (1e-06, 1e-05)",
    ),
    "inverse rope of q": (
        QNORM,
        [("rope(%q_normed, %angles) {inverse=false}", "rope(%q_normed, %angles) {inverse=true}")],
        "expected a forward RoPE, got an inverse one",
    ),
    "inverse rope of kv": (
        QNORM,
        [("rope(%kv_normed, %angles) {inverse=false}", "rope(%kv_normed, %angles) {inverse=true}")],
        "expected a forward RoPE, got an inverse one",
    ),
    "kv is used": (
        QNORM,
        [after("kv_roped", "%also: bf16[T, 80] = head_norm(%kv_roped)"), returns("also")],
        "expected %kv_roped to be used only by %window.1, also used by %also",
    ),
    "kv is returned": (
        QNORM,
        [returns("kv_roped")],
        "expected %kv_roped to be used only by %window.1, the graph returns it",
    ),
    "normed kv is used": (
        QNORM,
        [after("kv_normed", "%also: bf16[T, 80] = head_norm(%kv_normed)"), returns("also")],
        "expected %kv_normed to be used only by %kv_roped, also used by %also",
    ),
    "kv without norm": (
        QNORM,
        [("rope(%kv_normed, %angles)", "rope(%kv, %angles)"), returns("kv_normed")],
        "expected %kv to come from rms_norm, got a graph input",
    ),
    "q without norm": (
        QNORM,
        [("rope(%q_normed, %angles)", "rope(%q, %angles)"), returns("q_normed")],
        "expected %q to come from head_norm, got a graph input",
    ),
    "q without rope": (
        QNORM,
        [("attention_scores(%q_roped", "attention_scores(%q_normed"), returns("q_roped")],
        "expected %q_normed to come from rope, got head_norm",
    ),
    "the window is not read": (
        QNORM,
        [("gather_rows(%window.1, %seen)", "gather_rows(%cache, %seen)")],
        "expected %window.1 to reach attention_scores through gather_rows, got no such user",
    ),
    "kv depends on q": (
        QNORM,
        [
            after("q_roped", "%flat: bf16[T, 160] = view(%q_roped) {shape=[160]}\n"
                  '  %kv_of_q: bf16[T, 80] = linear(%flat, %w) @ "w.weight"'),
            ("rms_norm(%kv, ", "rms_norm(%kv_of_q, "),
        ],
        "expected a convex match, got %flat on a path between its nodes",
    ),
    "keys are not the values": (
        GATHER,
        [("attention_scores(%q_roped, %rows,", "attention_scores(%q_roped, %keys,"),
         after("rows", "%keys: bf16[T, 136, 80] = head_norm(%rows)")],
        "expected keys and values to be the same rows %rows, got %keys",
    ),
    "indices joined in another order": (
        GATHER,
        [("concat(%seen, %chosen)", "concat(%chosen, %seen)")],
        "expected rows and indices joined in the same order ('seen', 'chosen'), "
        "got ('chosen', 'seen')",
    ),
    "indices that are not joined": (
        GATHER,
        [("  %index: i32[T, 136] = concat(%seen, %chosen)\n", ""),
         ("  in %chosen:", "  in %index: i32[T, 136]\n  in %chosen:")],
        "expected %index to come from concat, got a graph input",
    ),
    "one gather with other indices": (
        GATHER,
        [("attention_scores(%q_roped, %rows, %index)", "attention_scores(%q_roped, %near, %elsewhere)"),
         ("attention_values(%probs, %rows)", "attention_values(%probs, %near)"),
         ("  in %chosen:", "  in %elsewhere: i32[T, 128]\n  in %chosen:"),
         ("%scores: f32[T, 2, 136]", "%scores: f32[T, 2, 128]"),
         ("%probs: f32[T, 2, 136]", "%probs: f32[T, 2, 128]")],
        "expected the rows of %elsewhere, got %seen",
    ),
    "rows that are not gathered": (
        GATHER,
        [("concat(%near, %far)", "concat(%near, %normed)"),
         after("far", "%normed: bf16[T, 8, 80] = head_norm(%far)")],
        "expected %normed to come from gather_rows, got head_norm",
    ),
    "the same rows twice": (
        GATHER,
        [("gather_rows(%cache, %chosen)", "gather_rows(%cache, %twice)"),
         ("gather_rows(%window.1, %seen)", "gather_rows(%cache, %twice)"),
         ("concat(%seen, %chosen)", "concat(%twice, %twice)"),
         ("  in %chosen:", "  in %twice: i32[T, 68]\n  in %chosen:"),
         ("%near: bf16[T, 128, 80]", "%near: bf16[T, 68, 80]"),
         ("%far: bf16[T, 8, 80]", "%far: bf16[T, 68, 80]")],
        "expected two different caches and index lists, "
        "got ('q_roped', 'cache', 'twice', 'cache', 'twice', 'sink')",
    ),
    "scores are used": (
        GATHER,
        [after("scores", '%also: f32[T, 2, 136] = sink_softmax(%scores, %sink) @ "attn_sink"'),
         returns("also")],
        "expected %scores to be used only by %probs, also used by %also",
    ),
    "probabilities are returned": (
        GATHER,
        [returns("probs")],
        "expected %probs to be used only by %o, the graph returns it",
    ),
    "gathered rows are used": (
        GATHER,
        [after("near", "%also: bf16[T, 128, 80] = head_norm(%near)"), returns("also")],
        "expected %near to stay inside the fusion, got %also using it",
    ),
    "joined rows are returned": (
        GATHER,
        [returns("rows")],
        "expected %rows to stay inside the fusion, got the graph's outputs using it",
    ),
    "a write between the gathers": (
        GATHER,
        [("gather_rows(%cache, %chosen)", "gather_rows(%window.2, %chosen)"),
         after("near", f"%window.2: {RING} = insert_rows(%window.1, %kv, %where)"),
         ("return %z, %window.1", "return %z, %window.2")],
        "expected a convex match, got %window.2 on a path between its nodes",
    ),
    "forward rope": (
        WO_A,
        [("rope(%o, %angles) {inverse=true}", "rope(%o, %angles) {inverse=false}")],
        "expected an inverse RoPE, got a forward one",
    ),
    "no rope": (
        WO_A,
        [("view(%turned)", "view(%o)"), returns("turned")],
        "expected %o to come from rope, got attention_values",
    ),
    "no view": (
        WO_A,
        [("grouped_linear(%groups", "grouped_linear(%turned"), returns("groups")],
        "expected %turned to come from view, got rope",
    ),
    "unroped values are used": (
        WO_A,
        [after("turned", "%also: bf16[T, 2, 80] = head_norm(%turned)"), returns("also")],
        "expected %turned to be used only by %groups, also used by %also",
    ),
    "groups are returned": (
        WO_A,
        [returns("groups")],
        "expected %groups to be used only by %z, the graph returns it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_refusal(case: str) -> None:
    one, changes, reason = REFUSALS[case]
    graph = changed(*changes)
    result = one.run(graph)
    (remark,) = result.remarks
    assert remark.status == "refused"
    assert remark.text == reason
    assert (remark.rule, remark.layer) == (one.name, 3)
    assert result.graph == replace(graph, stage="fused")


def test_a_refusal_alone_does_not_modify() -> None:
    graph = replace(changed(("inverse=true", "inverse=false")), stage="fused")
    result = WO_A.run(graph)
    assert not result.modified
    assert result.graph is graph


def test_a_paged_insert_is_no_anchor() -> None:
    graph = changed(
        (f"in %window: {RING}", f"in %window: {PAGED}"),
        (f"%window.1: {RING}", f"%window.1: {PAGED}"),
    )
    assert QNORM.run(graph).remarks == ()


def chains(*order: str) -> PassResult:
    """Two chains that the pass takes, their nodes in the given order."""
    lines = {
        "a1": "%a1: bf16[T, 2, 8] = rope(%x, %angles) {inverse=true}",
        "a2": "%a2: bf16[T, 2, 8] = view(%a1) {shape=[2, 8]}",
        "a3": '%a3: bf16[T, 4] = grouped_linear(%a2, %w) @ "w"',
        "b1": "%b1: bf16[T, 2, 8] = rope(%y, %angles) {inverse=true}",
        "b2": "%b2: bf16[T, 2, 8] = view(%b1) {shape=[2, 8]}",
        "b3": '%b3: bf16[T, 4] = grouped_linear(%b2, %w) @ "w"',
        "c": "%c: bf16[T, 4] = head_norm(%a3)",
    }
    text = 'graph "two" stage(model) {\n  in %x: bf16[T, 2, 8]\n  in %y: bf16[T, 2, 8]\n'
    text += '  in %angles: f32[T, 4]\n  in %w: weight<bf16>[4, 8] = "w"\n'
    text += "".join(f"  {lines[name]}\n" for name in order) + "  return %c, %b3\n}\n"
    graph = parse(text)
    verify(graph)
    result = WO_A.run(graph)
    verify(result.graph)
    return result


@pytest.mark.parametrize(
    ("order", "fused"),
    [
        (("a1", "a2", "a3", "c", "b1", "b2", "b3"), ["a3", "c", "b3"]),
        (("a1", "b1", "a2", "b2", "a3", "b3", "c"), ["a3", "b3", "c"]),
        (("a1", "b1", "b2", "a2", "a3", "c", "b3"), ["a3", "c", "b3"]),
        (("b1", "a1", "a2", "b2", "b3", "a3", "c"), ["b3", "a3", "c"]),
    ],
)
def test_interleaved_matches_all_fuse(order: tuple[str, ...], fused: list[str]) -> None:
    result = chains(*order)
    assert [node.name for node in result.graph.nodes] == fused
    assert sorted(remark.node for remark in result.remarks) == ["a3", "b3"]
    assert {remark.status for remark in result.remarks} == {"applied"}


def test_users_of_an_early_result_move_behind_the_fused_node() -> None:
    """The query is read before the insert that it is fused with."""
    graph = changed(
        after("q_roped", "%early: bf16[T, 2, 80] = head_norm(%q_roped)"), returns("early")
    )
    result = QNORM.run(graph)
    verify(result.graph)
    assert [node.name for node in result.graph.nodes[:2]] == ["q_roped", "early"]
    assert result.graph.nodes[0].outputs == ("q_roped", "window.1")
