"""The norm of the query latent with a layer's compressors: text before and after, every guard."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dsv4c.ir.graph import Graph
from dsv4c.ir.text import parse, show
from dsv4c.ir.verify import verify
from dsv4c.models.deepseek_v4.config import Kind
from dsv4c.passes.base import run_passes
from dsv4c.passes.canonicalize import Canonicalize
from dsv4c.passes.common_subexpressions import CommonSubexpressions
from dsv4c.passes.fuse_latent_compress import FuseLatentCompress
from dsv4c.passes.fuse_qnorm_rope_quant import FuseQnormRopeQuant

ONE = FuseLatentCompress()
ROWS, INDEX_ROWS = "rows<8, 320>", "rows<8, 128>"
CACHE = "cache<fp8, width=80, rope=16, page=32, paged>"
INDEX_CACHE = "cache<mxfp4, width=32, rope=0, page=32, paged>"
TEXT = f"""\
graph "compressors" stage(model) {{
  in %x: bf16[T, 48]
  in %pos: i32[T]
  in %slot: i32[T]
  in %start: i32[T]
  in %angles: f32[T, 16]
  in %other: f32[T, 16]
  in %where: i32[T]
  in %wq_a: weight<bf16>[32, 48] = "wq_a.weight"
  in %q_norm: weight<bf16>[32] = "q_norm.weight"
  in %wq_b: weight<bf16>[64, 32] = "wq_b.weight"
  in %wkv: weight<bf16>[160, 48] = "compressor.wkv.weight"
  in %wgate: weight<bf16>[160, 48] = "compressor.wgate.weight"
  in %ape: weight<f32>[4, 160] = "compressor.ape"
  in %norm: weight<bf16>[80] = "compressor.norm.weight"
  in %index_wkv: weight<bf16>[64, 48] = "indexer.compressor.wkv.weight"
  in %index_wgate: weight<bf16>[64, 48] = "indexer.compressor.wgate.weight"
  in %index_ape: weight<f32>[4, 64] = "indexer.compressor.ape"
  in %index_norm: weight<bf16>[32] = "indexer.compressor.norm.weight"
  in %rows: {ROWS}
  in %cache: {CACHE}
  in %index_rows: {INDEX_ROWS}
  in %index_cache: {INDEX_CACHE}
  %q_a: bf16[T, 32] = linear(%x, %wq_a) @ L3 "wq_a.weight"
  %latent: bf16[T, 32] = rms_norm(%q_a, %q_norm) {{eps=1e-06}} @ L3 "q_norm.weight"
  %q: bf16[T, 64] = linear(%latent, %wq_b) @ L3 "wq_b.weight"
  %index_kv: f32[T, 64] = linear(%x, %index_wkv) {{dtype="f32"}} @ L3 "indexer.compressor.wkv.weight"
  %index_gate: f32[T, 64] = linear(%x, %index_wgate) {{dtype="f32"}} @ L3 "indexer.compressor.wgate.weight"
  %index_pooled: bf16[T, 32], %index_rows.1: {INDEX_ROWS} = compress_pool(%index_rows, %index_kv, %index_gate, %index_ape, %pos, %slot, %start) {{ratio=4, width=32}} @ L3 "indexer.compressor.ape"
  %index_normed: bf16[T, 32] = rms_norm(%index_pooled, %index_norm) {{eps=1e-06}} @ L3 "indexer.compressor.norm.weight"
  %index_entry: bf16[T, 32] = rope(%index_normed, %angles) {{inverse=false}} @ L3
  %index_rotated: bf16[T, 32] = hadamard(%index_entry) @ L3
  %index_cache.1: {INDEX_CACHE} = insert_rows(%index_cache, %index_rotated, %where) @ L3
  %kv: f32[T, 160] = linear(%x, %wkv) {{dtype="f32"}} @ L3 "compressor.wkv.weight"
  %gate: f32[T, 160] = linear(%x, %wgate) {{dtype="f32"}} @ L3 "compressor.wgate.weight"
  %pooled: bf16[T, 80], %rows.1: {ROWS} = compress_pool(%rows, %kv, %gate, %ape, %pos, %slot, %start) {{ratio=4, width=80}} @ L3 "compressor.ape"
  %normed: bf16[T, 80] = rms_norm(%pooled, %norm) {{eps=1e-06}} @ L3 "compressor.norm.weight"
  %entry: bf16[T, 80] = rope(%normed, %angles) {{inverse=false}} @ L3
  %cache.1: {CACHE} = insert_rows(%cache, %entry, %where) @ L3
  return %q, %index_rows.1, %index_cache.1, %rows.1, %cache.1
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


def test_golden(golden: Callable[[str, str], None]) -> None:
    result = ONE.run(changed())
    verify(result.graph)
    assert [remark.text for remark in result.remarks] == ["latent_compress of 10 nodes"]
    assert result.candidates == 1
    golden("passes/latent_compress.ir", show(result.graph))


def test_leaves_its_own_result_alone() -> None:
    once = ONE.run(changed()).graph
    again = ONE.run(once)
    assert (again.graph, again.remarks) == (once, ())


@pytest.mark.parametrize(("kind", "nodes"), [("swa", 0), ("csa", 10), ("hca", 5)])
@pytest.mark.parametrize("first", [True, False])
def test_fires_in_every_layer_with_a_compressor(
    kind: Kind, nodes: int, first: bool, layer_graph: Callable[[Kind], Graph]
) -> None:
    graph, _ = run_passes(layer_graph(kind), (Canonicalize(), CommonSubexpressions()))
    if not first:
        graph = FuseQnormRopeQuant().run(graph).graph
    result = ONE.run(graph)
    verify(result.graph)
    texts = [remark.text for remark in result.remarks]
    assert texts == ([f"latent_compress of {nodes} nodes"] if nodes else [])


def returns(*values: str) -> Change:
    return "return %q, ", "return %q, " + "".join(f"%{value}, " for value in values)


ROPE = "rope(%normed, %angles) {inverse=false}"
POOL = "compress_pool(%rows, %kv, %gate, %ape, %pos, %slot, %start)"
BEFORE = "  in %before: bf16[T, 32]\n  in %pos"
REFUSALS: dict[str, tuple[list[Change], str]] = {
    "other angles": (
        [(ROPE, ROPE.replace("%angles", "%other"))],
        "expected the compressors to share ('pos', 'slot', 'start', 'other', 'where'), "
        "got ('pos', 'slot', 'start', 'angles', 'where')",
    ),
    "inverse rope": (
        [(ROPE, ROPE.replace("false", "true"))],
        "expected a forward RoPE, got an inverse one",
    ),
    "other start": (
        [(POOL, POOL.replace("%start", "%slot"))],
        "expected the compressors to share ('pos', 'slot', 'slot', 'angles', 'where'), "
        "got ('pos', 'slot', 'start', 'angles', 'where')",
    ),
    "other epsilon": (
        [("rms_norm(%pooled, %norm) {eps=1e-06}", "rms_norm(%pooled, %norm) {eps=1e-05}")],
        "expected one epsilon for all norms, got (1e-06, 1e-05, 1e-06)",
    ),
    "pooled rows are returned": (
        [returns("pooled")],
        "expected %pooled to be used only by rms_norm, the graph returns it",
    ),
    "the normed row is used": (
        [
            ("  return", "  %also: bf16[T, 80] = view(%normed) {shape=[80]}\n  return"),
            returns("also"),
        ],
        "expected %normed to be used only by rope, got rope, view",
    ),
    "no rope": (
        [(ROPE, "view(%normed) {shape=[80]}")],
        "expected %normed to be used only by rope, got view",
    ),
    "two latents": (
        [
            (
                "  return",
                '  %twice: bf16[T, 32] = rms_norm(%q_a, %q_norm) {eps=1e-06} @ "q_norm.weight"\n  return',
            ),
            returns("twice"),
        ],
        "expected one norm of a latent beside %pooled, got ['latent', 'twice']",
    ),
    "no latent": (
        [("rms_norm(%q_a, %q_norm)", "rms_norm(%before, %q_norm)"), ("  in %pos", BEFORE)],
        "expected one norm of a latent beside %pooled, got []",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str) -> None:
    changes, text = REFUSALS[name]
    result = ONE.run(changed(*changes))
    assert [(remark.status, remark.text) for remark in result.remarks] == [("refused", text)]
    assert not result.modified or result.graph.nodes == changed(*changes).nodes
