"""The fusions of attention on a layer of each kind: text, and that they fire everywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache

import pytest

from dsv4c.ir.graph import Graph
from dsv4c.ir.text import parse, show
from dsv4c.ir.verify import verify
from dsv4c.models.deepseek_v4.build import BuildOptions
from dsv4c.models.deepseek_v4.config import Kind, ModelConfig
from dsv4c.passes.base import Pass, PassRecord, run_passes
from dsv4c.passes.canonicalize import Canonicalize
from dsv4c.passes.common_subexpressions import CommonSubexpressions
from dsv4c.passes.dead_code import DeadCode
from dsv4c.passes.fuse_gather_gemm import FuseGatherGemm
from dsv4c.passes.fuse_inverse_rope_wo_a import FuseInverseRopeWoA
from dsv4c.passes.fuse_qnorm_rope_quant import FuseQnormRopeQuant
from dsv4c.pipeline import pipeline

CLEAN: tuple[Pass, ...] = (Canonicalize(), CommonSubexpressions(), DeadCode())
FUSIONS: tuple[Pass, ...] = (FuseQnormRopeQuant(), FuseGatherGemm(), FuseInverseRopeWoA())
KINDS: tuple[Kind, ...] = ("swa", "csa", "hca")
ENV = {"T": 512, "R": 512, "S": 8, "P": 16, "N": 128}
LAYERS = {"tiny": 5, "flash": 43, "pro": 61}
# per-layer ops that the fusions take in, by the kind of the fused node and of the layer
QNORM = ["head_norm", "insert_rows", "rms_norm", "rope", "rope"]
INDEX_QUERY = ["fake_quant", "hadamard", "rope"]
COMPRESS = ["compress_pool", "insert_rows", "rms_norm", "rope"]
WO_A = ["grouped_linear", "rope", "view"]
BODIES: dict[str, dict[Kind, list[str]]] = {
    "qnorm_rope_kv_insert": {"swa": QNORM, "csa": sorted([*QNORM, *INDEX_QUERY]), "hca": QNORM},
    "inverse_rope_wo_a": {"swa": WO_A, "csa": WO_A, "hca": WO_A},
    "latent_compress": {
        "csa": sorted(["rms_norm", "hadamard", *COMPRESS, *COMPRESS]),
        "hca": sorted(["rms_norm", *COMPRESS]),
    },
}
RULES = {
    "fuse_qnorm_rope_quant": "qnorm_rope_kv_insert",
    "fuse_inverse_rope_wo_a": "inverse_rope_wo_a",
    "fuse_latent_compress": "latent_compress",
    "fuse_gather_gemm": "sparse_attention",
}
KINDS_FUSED = (*BODIES, "sparse_attention")
ATTENTION = ["attention_scores", "attention_values", "gather_rows", "sink_softmax"]
Golden = Callable[[str, str], None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("one", FUSIONS, ids=lambda one: one.name)
def test_golden(
    one: Pass, kind: Kind, layer_graph: Callable[[Kind], Graph], golden: Golden
) -> None:
    before, _ = run_passes(layer_graph(kind), CLEAN)
    result = one.run(before)
    verify(result.graph, one.name)
    assert result.modified
    assert [remark.status for remark in result.remarks] == ["applied"]
    golden(f"passes/{kind}/before.ir", show(before))
    golden(f"passes/{kind}/{one.name}.ir", show(result.graph))


Through = Callable[[str], tuple[ModelConfig, list[PassRecord]]]


@pytest.fixture(scope="module")
def through(
    model_config: Callable[[str], ModelConfig], model_graph: Callable[..., Graph]
) -> Through:
    """Configuration and records of the pipeline, once per model."""

    @cache
    def run(name: str) -> tuple[ModelConfig, list[PassRecord]]:
        config = model_config(name)
        _, records = run_passes(model_graph(config), pipeline("cpu", ENV))
        return config, records

    return run


@pytest.mark.parametrize("name", LAYERS)
def test_each_fusion_fires_in_every_layer(name: str, through: Through) -> None:
    config, records = through(name)
    assert len(config.layers) == LAYERS[name]
    graph = records[-1].graph
    kinds = Counter(str(node.attrs["kind"]) for node in graph.nodes if node.body is not None)
    for record in (record for record in records if record.name in RULES):
        kind = RULES[record.name]
        layers = [n for n, one in enumerate(config.layers) if one.kind in BODIES.get(kind, KINDS)]
        assert {remark.status for remark in record.remarks} == {"applied"}
        assert [remark.layer for remark in record.remarks] == layers
        assert kinds[kind] == len(layers)


@pytest.mark.parametrize("name", LAYERS)
def test_bodies_hold_what_the_layer_needs(name: str, through: Through) -> None:
    config, records = through(name)
    for node in records[-1].graph.nodes:
        if node.body is None or node.attrs["kind"] not in KINDS_FUSED:
            continue
        kind, layer = str(node.attrs["kind"]), node.origin.layer
        assert layer is not None
        found = sorted(part.op for part in node.body.nodes)
        if kind in BODIES:
            assert found == BODIES[kind][config.layers[layer].kind]
        elif kind == "sparse_attention" and config.layers[layer].kind == "swa":
            assert found == ATTENTION
        elif kind == "sparse_attention":
            assert found == sorted([*ATTENTION, "gather_rows", "concat", "concat"])
    left = {node.op for node in records[-1].graph.nodes}
    assert not left & {*ATTENTION, "head_norm", "grouped_linear", "concat"}


@pytest.mark.parametrize("name", LAYERS)
def test_fused_nodes_keep_the_provenance_of_their_parts(name: str, through: Through) -> None:
    tensors = {
        "qnorm_rope_kv_insert": "kv_norm.weight",
        "sparse_attention": "attn_sink",
        "inverse_rope_wo_a": "wo_a.weight",
    }
    for node in through(name)[1][-1].graph.nodes:
        if node.body is not None and node.attrs["kind"] in tensors:
            weight = tensors[str(node.attrs["kind"])]
            assert node.origin.tensors == (f"layers.{node.origin.layer}.attn.{weight}",)


@pytest.mark.parametrize("name", LAYERS)
def test_every_stage_round_trips(name: str, through: Through) -> None:
    records = through(name)[1]
    assert records[-1].graph.stage == "planned"
    records = records if name == "tiny" else records[-1:]
    for record in records:
        assert parse(show(record.graph)) == record.graph


def test_passes_leave_their_own_result_alone(through: Through) -> None:
    passes = pipeline("cpu", ENV)
    records = through("tiny")[1]
    assert [record.name for record in records] == [one.name for one in passes]
    for one, record in zip(passes, records, strict=True):
        again = one.run(record.graph)
        assert again.graph == record.graph
        assert not again.modified or one.name == "lower"


@pytest.mark.parametrize(("dtype", "kv_cache"), [("f32", "f32"), ("bf16", "bf16"), ("f32", "fp8")])
def test_fusions_do_not_depend_on_dtypes(
    dtype: str,
    kv_cache: str,
    model_config: Callable[[str], ModelConfig],
    model_graph: Callable[..., Graph],
) -> None:
    graph = model_graph(model_config("tiny"), BuildOptions(dtype, kv_cache))
    _, records = run_passes(graph, (*CLEAN, *FUSIONS))
    for record in records[-3:]:
        assert [remark.status for remark in record.remarks] == ["applied"] * 5
