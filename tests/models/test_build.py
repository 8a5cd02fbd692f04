"""The builder: nodes and states of each kind of layer, weights as the inventory says, options."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from dsv4c.errors import DsvError
from dsv4c.ir.graph import Graph, Node
from dsv4c.ir.text import parse, show
from dsv4c.ir.types import CacheType, RowsType, Sym, TensorType, WeightType
from dsv4c.ir.verify import verify
from dsv4c.models.deepseek_v4.build import BuildOptions, build_graph, check_supported
from dsv4c.models.deepseek_v4.config import Kind, LayerConfig, ModelConfig, parse_config
from dsv4c.models.deepseek_v4.inventory import Header, logical_weights, official_inventory
from dsv4c.models.deepseek_v4.names import resolve_weights

MakeConfig = Callable[..., dict[str, Any]]
RATIOS: dict[Kind, int] = {"swa": 0, "csa": 4, "hca": 128}


@dataclass
class FakeCheckpoint:
    tensors: Mapping[str, Header]


def build(config: ModelConfig, options: BuildOptions | None = None) -> Graph:
    weights = resolve_weights(config, FakeCheckpoint(official_inventory(config)))
    return build_graph(config, weights, options or BuildOptions())


def with_layers(config: ModelConfig, *kinds: Kind, hashed: int = 0) -> ModelConfig:
    layers = tuple(LayerConfig(kind, RATIOS[kind], i < hashed) for i, kind in enumerate(kinds))
    return replace(config, layers=layers, num_hidden_layers=len(layers), num_nextn_predict_layers=0)


@pytest.fixture
def few(flash: MakeConfig) -> ModelConfig:
    """Flash with 8 experts and one layer of each kind, the first of which routes by hash."""
    return with_layers(parse_config(flash(n_routed_experts=8)), "swa", "csa", "hca", hashed=1)


def ops(graph: Graph, layer: int, part: str) -> Counter[str]:
    prefix = f"L{layer}.{part}."
    return Counter(node.op for node in graph.nodes if node.outputs[0].startswith(prefix))


def find(graph: Graph, op: str, layer: int) -> list[Node]:
    return [node for node in graph.nodes if node.op == op and node.origin.layer == layer]


MHC = {"mhc_mix": 1, "mhc_coefficients": 1, "mhc_collapse": 1, "mhc_expand": 1}
# every layer: wq_a, wq_b, wkv, wo_b; norms of x, q, kv; ropes of q, kv and back
SWA = Counter(
    {
        **MHC,
        **{"linear": 4, "rms_norm": 3, "rope": 3, "rope_angles": 1, "head_norm": 1, "view": 2},
        **{"window_slots": 1, "window_entries": 1, "insert_rows": 1, "gather_rows": 1},
        **{"attention_scores": 1, "sink_softmax": 1, "attention_values": 1, "grouped_linear": 1},
    }
)
COMPRESSOR = Counter(linear=2, compress_pool=1, rms_norm=1, rope=1, rope_angles=1, entry_slots=1, insert_rows=1)  # fmt: skip
JOINED = Counter(gather_rows=1, concat=2)
INDEXER = COMPRESSOR + Counter(
    hadamard=2, fake_quant=1, linear=2, view=1, rope=1, rope_angles=1, index_scores=1, topk_entries=1
)  # fmt: skip
MOE = Counter(
    {**MHC, "rms_norm": 1, "linear": 4, "group_tokens": 1, "expert_linear": 3, "routed_swiglu": 1, "swiglu": 1, "combine": 1}
)  # fmt: skip


def test_nodes_of_each_kind_of_layer(few: ModelConfig) -> None:
    graph = build(few)
    verify(graph)
    assert ops(graph, 0, "attn") == SWA
    assert ops(graph, 1, "attn") == SWA + JOINED + COMPRESSOR + INDEXER
    assert ops(graph, 2, "attn") == SWA + JOINED + COMPRESSOR + Counter(visible_entries=1)
    assert ops(graph, 0, "ffn") == MOE + Counter(route_hash=1)
    assert ops(graph, 2, "ffn") == MOE + Counter(route_learned=1)
    outside = [node.op for node in graph.nodes if node.origin.layer is None]
    assert outside == [
        *("embed", "expand_streams", "take_rows", "mhc_mix", "mhc_head_coefficients"),
        *("mhc_collapse", "rms_norm", "linear", "sample"),
    ]


def test_signature(few: ModelConfig) -> None:
    graph = build(few)
    steps = graph.inputs_of_kind(TensorType)
    assert steps == [
        *("ids", "pos", "slot", "start", "block_table", "out_rows"),
        *("temperature", "top_k", "top_p", "seed", "next_pos"),
    ]
    assert [str(graph.types[name]) for name in steps] == [
        *["i32[T]"] * 4,
        *("i32[S, P]", "i32[R]"),
        *("f32[R]", "i32[R]", "f32[R]", "i32[R, 2]", "i32[R]"),
    ]
    assert graph.types[graph.outputs[0]] == TensorType("f32", (Sym("R"), few.vocab_size))
    assert graph.types[graph.outputs[1]] == TensorType("i32", (Sym("R"),))
    assert graph.types["L0.ffn.streams"] == TensorType("bf16", (Sym("T"), 4, 4096))
    written = [value.rpartition(".")[0] for value in graph.outputs[2:]]
    assert written == graph.states, "every state is written and returned"


def test_bytes_of_the_states(few: ModelConfig) -> None:
    """Section 4 of deepseek-v4.md; pages of 128 tokens, a ring of whole pages per slot."""
    graph = build(few)
    found: dict[str, tuple[int, int]] = {}
    for name in graph.states:
        kind = graph.types[name]
        assert isinstance(kind, CacheType | RowsType)
        found[name] = kind.nbytes({"S": 1, "N": 0}), kind.nbytes({"S": 0, "N": 1})
    ring = 5 * 74_880  # 127 + 512 entries rounded up to pages of 128
    assert found == {
        "L0.attn.window": (ring, 0),
        "L1.attn.window": (ring, 0),
        "L1.attn.indexer.rows": (16_384, 0),
        "L1.attn.indexer.cache": (0, 32 * 68),
        "L1.attn.compressor.rows": (65_536, 0),
        "L1.attn.compressor.cache": (0, 19_008),
        "L2.attn.window": (ring, 0),
        "L2.attn.compressor.rows": (524_288, 0),
        "L2.attn.compressor.cache": (0, 1_152),
    }


@pytest.mark.parametrize(("chunk", "ring"), [(1, 128), (2, 256), (129, 256), (512, 640), (4096, 4224)])  # fmt: skip
def test_the_ring_holds_the_window_before_a_whole_chunk(
    chunk: int, ring: int, few: ModelConfig
) -> None:
    kind = build(few, BuildOptions(chunk=chunk)).types["L0.attn.window"]
    assert isinstance(kind, CacheType)
    assert kind.ring == ring
    assert kind.ring % 128 == 0
    assert 127 + chunk <= kind.ring < 127 + chunk + 128


@pytest.mark.parametrize(("size", "growth"), [("flash", 3514), ("pro", 5031)])
def test_growth_per_token(size: str, growth: int, request: pytest.FixtureRequest) -> None:
    config = parse_config(request.getfixturevalue(size)(n_routed_experts=8))
    graph = build(config)
    per_token = 0.0
    for name in graph.states:
        kind = graph.types[name]
        if isinstance(kind, CacheType) and not kind.ring:
            per_token += kind.layout.page * kind.layout.entry_bytes / 128
    assert per_token == pytest.approx(growth, abs=1)


def test_every_weight_is_used_as_the_inventory_says(few: ModelConfig) -> None:
    graph = build(few)
    wanted = logical_weights(few)
    assert set(graph.weights) == set(wanted)
    readers = Counter(value for node in graph.nodes for value in node.inputs)
    for name, weight in wanted.items():
        assert graph.types[name] == WeightType(weight.formats[0], weight.shape)
        assert readers[name] == 1, name


def test_provenance(few: ModelConfig) -> None:
    graph = build(few)
    for node in graph.nodes:
        sources = [graph.sources[value] for value in node.inputs if value in graph.sources]
        assert node.origin.tensors == tuple(name for part in sources for name in part)
        prefix = node.outputs[0].split(".")[0]
        assert node.origin.layer == (int(prefix[1:]) if prefix[0] == "L" else None)
    gate = find(graph, "expert_linear", 1)[0]
    stacked = "layers.1.ffn.experts.{0..7}.w1"
    assert gate.origin.tensors == (f"{stacked}.weight", f"{stacked}.scale")
    assert graph.sources["layers.2.attn.wo_a"] == (
        "layers.2.attn.wo_a.weight",
        "layers.2.attn.wo_a.scale",
    )


def test_angles_of_each_kind_of_layer(few: ModelConfig) -> None:
    """Window-only layers have the main set, others the compressed one for everything."""
    graph = build(few)
    facts = [
        [(node.attrs["theta"], node.attrs["factor"], node.attrs["offset"]) for node in found]
        for found in (find(graph, "rope_angles", layer) for layer in range(3))
    ]
    assert facts == [
        [(10000.0, 1.0, 0)],
        [(160000.0, 16.0, offset) for offset in (0, -3, 0, -3)],
        [(160000.0, 16.0, 0), (160000.0, 16.0, -127)],
    ]
    assert [node.attrs["inverse"] for node in find(graph, "rope", 0) if node.attrs] == [True]


def test_a_step_writes_before_it_reads(few: ModelConfig) -> None:
    graph = build(few)
    for layer in range(3):
        for node in (*find(graph, "gather_rows", layer), *find(graph, "index_scores", layer)):
            (cache,) = [v for v in node.inputs if isinstance(graph.types[v], CacheType)]
            assert graph.producers[cache].op == "insert_rows"
    (scores,) = find(graph, "index_scores", 1)
    assert scores.attrs["scale"] == pytest.approx(0.0110485435)
    (attend,) = find(graph, "attention_scores", 1)
    assert attend.attrs["scale"] == pytest.approx(0.04419417382)
    assert graph.types[attend.name] == TensorType("f32", (Sym("T"), 64, 128 + 512))
    (attend,) = find(graph, "attention_scores", 2)
    assert graph.types[attend.name] == TensorType("f32", (Sym("T"), 64, Sym("P", 1, 128)))


def test_router_bias_and_hash_table(few: ModelConfig) -> None:
    graph = build(few)
    (hashed,) = find(graph, "route_hash", 0)
    assert hashed.inputs[1:] == ("layers.0.ffn.gate.tid2eid", "ids")
    (learned,) = find(graph, "route_learned", 1)
    assert learned.inputs[1:] == ("layers.1.ffn.gate.bias",)
    for node in (hashed, learned):
        assert node.attrs == {"k": 6, "scale": 1.5}
        assert graph.types[node.inputs[0]] == TensorType("f32", (Sym("T"), 8))


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
@pytest.mark.parametrize("kv_cache", ["fp8", "bf16", "f32"])
def test_options(dtype: str, kv_cache: str, few: ModelConfig) -> None:
    graph = build(few, BuildOptions(dtype, kv_cache))
    verify(graph)
    caches = {
        name.rpartition(".")[0]: kind.layout.format
        for name in graph.states
        if isinstance(kind := graph.types[name], CacheType)
    }
    index = caches.pop("L1.attn.indexer")
    assert set(caches.values()) == {kv_cache}
    assert index == ("mxfp4" if kv_cache == "fp8" else kv_cache)
    used = {node.op for node in graph.nodes}
    assert ({"hadamard", "fake_quant"} <= used) == (kv_cache == "fp8")
    for value in ("embedded", "L0.attn.q", "L1.attn.o", "L2.ffn.y", "L1.attn.indexer.normed"):
        kind = graph.types[value]
        assert isinstance(kind, TensorType)
        assert kind.dtype == dtype
    for value in ("L0.attn.mix", "L0.ffn.router_logits", "L1.attn.compressor.kv", "head.logits"):
        kind = graph.types[value]
        assert isinstance(kind, TensorType)
        assert kind.dtype == "f32", "kept in fp32 whatever the activations are"


@pytest.mark.parametrize("size", ["flash", "pro"])
def test_real_sizes(size: str, request: pytest.FixtureRequest) -> None:
    config = parse_config(request.getfixturevalue(size)(n_routed_experts=8))
    graph = build(config)
    verify(graph)
    assert [node.origin.layer for node in graph.nodes if node.op == "sink_softmax"] == list(
        range(len(config.layers))
    )
    assert [node.op for node in graph.nodes].count("route_hash") == 3
    assert set(graph.weights) == set(logical_weights(config))
    assert parse(show(graph)) == graph


def test_formats_are_read_per_tensor(few: ModelConfig) -> None:
    """A checkpoint may mix formats: the graph has each weight's own."""
    headers = official_inventory(few)
    del headers["layers.1.attn.wq_a.scale"]
    shape = headers["layers.1.attn.wq_a.weight"].shape
    headers["layers.1.attn.wq_a.weight"] = Header("BF16", shape)
    graph = build_graph(few, resolve_weights(few, FakeCheckpoint(headers)), BuildOptions())
    assert graph.types["layers.1.attn.wq_a"] == WeightType("bf16", (1024, 4096))
    assert graph.types["layers.2.attn.wq_a"] == WeightType("fp8_128", (1024, 4096))


@pytest.mark.parametrize(
    ("changes", "kinds", "expected", "found"),
    [
        ({"head_dim": 96, "qk_rope_head_dim": 64}, ("swa",), "a multiple of 64", "32"),
        ({"index_head_dim": 96}, ("hca", "csa"), "a power of two, at least 32", "96"),
        ({"index_head_dim": 16, "qk_rope_head_dim": 16, "head_dim": 80}, ("csa",), "a power of two, at least 32", "16"),
    ],
)  # fmt: skip
def test_dims_that_fp8_caches_cannot_hold(
    changes: dict[str, int], kinds: tuple[Kind, ...], expected: str, found: str, flash: MakeConfig
) -> None:
    config = with_layers(parse_config(flash(**changes)), *kinds)
    with pytest.raises(DsvError) as caught:
        check_supported(config, BuildOptions())
    assert caught.value.code == "DSV301"
    assert (caught.value.expected, caught.value.found) == (expected, found)
    assert caught.value.where.startswith("config.json, ")
    assert caught.value.hint == "compile with --kv-cache bf16 or f32"
    check_supported(config, BuildOptions(kv_cache="bf16"))


def test_what_is_not_used_need_not_fit(flash: MakeConfig) -> None:
    config = with_layers(parse_config(flash(index_head_dim=96)), "swa", "hca")
    check_supported(config, BuildOptions())
