"""The indexer's query joins the kernel of q and kv: text after, every guard, without an indexer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dsv4c.ir.graph import Graph
from dsv4c.ir.text import parse, show
from dsv4c.ir.verify import verify
from dsv4c.passes.fuse_qnorm_rope_quant import FuseQnormRopeQuant

ONE = FuseQnormRopeQuant()
RING = "cache<fp8, width=80, rope=16, page=128, ring=256>"
PAGED = "cache<fp8, width=80, rope=16, page=32, paged>"
KEYS = "cache<mxfp4, width=32, rope=0, page=32, paged>"
TEXT = f"""\
graph "attention" stage(model) {{
  in %q: bf16[T, 2, 80]
  in %kv: bf16[T, 80]
  in %index_q: bf16[T, 4, 32]
  in %index_weights: f32[T, 4]
  in %angles: f32[T, 16]
  in %other: f32[T, 16]
  in %where: i32[T]
  in %seen: i32[T, 128]
  in %pos: i32[T]
  in %slot: i32[T]
  in %block_table: i32[S, P]
  in %kv_norm: weight<bf16>[80] = "kv_norm.weight"
  in %window: {RING}
  in %cache: {PAGED}
  in %keys: {KEYS}
  %q_normed: bf16[T, 2, 80] = head_norm(%q) {{eps=1e-06}}
  %q_roped: bf16[T, 2, 80] = rope(%q_normed, %angles) {{inverse=false}}
  %kv_normed: bf16[T, 80] = rms_norm(%kv, %kv_norm) {{eps=1e-06}} @ L3 "kv_norm.weight"
  %kv_roped: bf16[T, 80] = rope(%kv_normed, %angles) {{inverse=false}}
  %window.1: {RING} = insert_rows(%window, %kv_roped, %where) @ L3
  %near: bf16[T, 128, 80] = gather_rows(%window.1, %seen) {{width=80}}
  %index_roped: bf16[T, 4, 32] = rope(%index_q, %angles) {{inverse=false}}
  %index_rotated: bf16[T, 4, 32] = hadamard(%index_roped)
  %index_fp4: bf16[T, 4, 32] = fake_quant(%index_rotated) {{block=32}}
  %ranked: f32[T, 32*P] = index_scores(%index_fp4, %index_weights, %keys, %pos, %slot, %block_table) {{ratio=4, page=32, scale=0.1}}
  %chosen: i32[T, 8] = topk_entries(%ranked, %pos, %slot, %block_table) {{ratio=4, page=32, k=8}}
  %far: bf16[T, 8, 80] = gather_rows(%cache, %chosen) {{width=80}}
  %rows: bf16[T, 136, 80] = concat(%near, %far)
  %index: i32[T, 136] = concat(%seen, %chosen)
  %scores: f32[T, 2, 136] = attention_scores(%q_roped, %rows, %index) {{scale=0.125}}
  return %scores, %window.1
}}
"""
Change = tuple[str, str]
ROPE = "rope(%index_q, %angles) {inverse=false}"


def changed(*changes: Change) -> Graph:
    text = TEXT
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    graph = parse(text)
    verify(graph)
    return graph


def bodies(graph: Graph) -> list[list[str]]:
    """The ops of each fused node."""
    return [[part.op for part in node.body.nodes] for node in graph.nodes if node.body is not None]


def test_golden(golden: Callable[[str, str], None]) -> None:
    result = ONE.run(changed())
    verify(result.graph)
    assert [remark.text for remark in result.remarks] == ["qnorm_rope_kv_insert of 8 nodes"]
    golden("passes/index_query.ir", show(result.graph))


def test_takes_rope_alone_where_nothing_is_rounded() -> None:
    rounded = [line for line in TEXT.splitlines() if "hadamard" in line or "fake_quant" in line]
    graph = changed(
        ("index_scores(%index_fp4,", "index_scores(%index_roped,"),
        *((line + "\n", "") for line in rounded),
    )
    (body,) = bodies(ONE.run(graph).graph)
    assert sorted(body) == ["head_norm", "insert_rows", "rms_norm", "rope", "rope", "rope"]


def test_without_an_indexer_nothing_else_joins() -> None:
    seen = "visible_entries(%pos, %slot, %block_table) {ratio=4, page=32}"
    graph = changed(
        ("%chosen: i32[T, 8] = topk_entries(%ranked, %pos, %slot, %block_table) {ratio=4, page=32, k=8}",
         f"%chosen: i32[T, 32*P] = {seen}"),
        ("%far: bf16[T, 8, 80]", "%far: bf16[T, 32*P, 80]"),
        ("%rows: bf16[T, 136, 80]", "%rows: bf16[T, 32*P+128, 80]"),
        ("%index: i32[T, 136]", "%index: i32[T, 32*P+128]"),
        ("%scores: f32[T, 2, 136]", "%scores: f32[T, 2, 32*P+128]"),
    )  # fmt: skip
    (body,) = bodies(ONE.run(graph).graph)
    assert sorted(body) == ["head_norm", "insert_rows", "rms_norm", "rope", "rope"]


REFUSALS: dict[str, tuple[list[Change], str]] = {
    "other angles": (
        [(ROPE, ROPE.replace("%angles", "%other"))],
        "expected the indexer's q to share %angles, got %other",
    ),
    "inverse rope": (
        [(ROPE, ROPE.replace("false", "true"))],
        "expected a forward RoPE, got an inverse one",
    ),
    "the rotated query is returned": (
        [("return %scores", "return %scores, %index_rotated")],
        "expected %index_rotated to be used only by %index_fp4, the graph returns it",
    ),
    "the rounded query is returned": (
        [("return %scores", "return %scores, %index_fp4")],
        "expected %index_fp4 to be used only by %ranked, the graph returns it",
    ),
    "no rope": (
        [("index_scores(%index_fp4,", "index_scores(%index_q,")],
        "expected %index_q to come from rope, got a graph input",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str) -> None:
    changes, text = REFUSALS[name]
    result = ONE.run(changed(*changes))
    assert [(remark.status, remark.text) for remark in result.remarks] == [("refused", text)]
