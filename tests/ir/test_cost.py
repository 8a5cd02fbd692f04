"""Cost: the numbers of DeepSeek-V4-Flash for one token at a context of 131,072 (8.2 of the page)."""

from __future__ import annotations

import pytest

from dsv4c.ir.cache import CacheLayout
from dsv4c.ir.cost import graph_cost, node_cost, region_cost
from dsv4c.ir.graph import Attr, Graph, Node
from dsv4c.ir.op import Cost, infer
from dsv4c.ir.text import parse
from dsv4c.ir.types import CacheType, RowsType, Sym, TensorType, Type, WeightType

T, S, P = Sym("T"), Sym("S"), Sym("P")
ENV = {"T": 1, "S": 1, "P": 1024, "R": 1}
KV = CacheType(CacheLayout("fp8", 512, 64, 32))
INDEX = CacheType(CacheLayout("mxfp4", 128, 0, 32))
POS = TensorType("i32", (T,))
TABLE = TensorType("i32", (S, P))


def cost(op: str, *types: Type, **attrs: Attr) -> Cost:
    results = infer(op, types, attrs)
    operands = {f"x{i}": type_ for i, type_ in enumerate(types)}
    made = {f"y{i}": type_ for i, type_ in enumerate(results)}
    return node_cost(Node(op, tuple(operands), tuple(made), attrs), operands | made, ENV)


def activations(*types: Type) -> int:
    return sum(type_.nbytes(ENV) for type_ in types if isinstance(type_, TensorType))


def x(*dims: int) -> TensorType:
    return TensorType("bf16", (T, *dims))


# rows: weight or weights, with MFLOP per token and MB of weights per layer as the page has them
LINEARS = {
    "wq_a": ([WeightType("fp8_128", (1024, 4096))], 8.39, 4.195),
    "wkv": ([WeightType("fp8_128", (512, 4096))], 4.19, 2.097),
    "wq_b": ([WeightType("fp8_128", (32768, 1024))], 67.11, 33.556),
    "CSA compressor": ([WeightType("bf16", (1024, 4096))] * 2, 16.78, 16.777),
    "HCA compressor": ([WeightType("bf16", (512, 4096))] * 2, 8.39, 8.389),
    "indexer wq_b": ([WeightType("fp8_128", (8192, 1024))], 16.78, 8.389),
    "indexer weights_proj and compressor": (
        [WeightType("bf16", (64, 4096)), *[WeightType("bf16", (256, 4096))] * 2],
        4.72,
        4.719,
    ),
    "wo_b": ([WeightType("fp8_128", (4096, 8192))], 67.11, 33.556),
    "router": ([WeightType("bf16", (256, 4096))], 2.10, 2.097),
    "shared expert": ([*[WeightType("fp8_128", (2048, 4096))] * 2, WeightType("fp8_128", (4096, 2048))], 50.33, 25.167),
    "lm_head": ([WeightType("bf16", (129280, 4096))], 1059.06, 1059.062),
}  # fmt: skip


@pytest.mark.parametrize("name", LINEARS)
def test_linears(name: str) -> None:
    weights, mflop, megabytes = LINEARS[name]
    costs = [(x(w.dims[-1]), cost("linear", x(w.dims[-1]), w)) for w in weights]
    assert sum(one.flops for _, one in costs) / 1e6 == pytest.approx(mflop, rel=0.01)
    read = sum(one.read - activations(operand) for operand, one in costs)
    assert read / 1e6 == pytest.approx(megabytes, rel=0.001)


def test_wo_a() -> None:
    operand, weight = x(8, 4096), WeightType("fp8_128", (8192, 4096))
    found = cost("grouped_linear", operand, weight)
    assert found.flops / 1e6 == pytest.approx(67.11, rel=0.01)
    assert (found.read - activations(operand)) / 1e6 == pytest.approx(33.556, rel=0.001)
    assert found.write == 2 * 8192


@pytest.mark.parametrize(
    ("fmt", "megabytes"), [("mxfp4", 80.216), ("nvfp4", 80.216 * 0.5625 / 0.53125)]
)
def test_routed_experts_read_the_chosen_ones(fmt: str, megabytes: float) -> None:
    chosen = TensorType("i32", (T, 6))
    up, down = WeightType(fmt, (256, 2048, 4096)), WeightType(fmt, (256, 4096, 2048))
    parts = [(x(4096), up), (x(4096), up), (x(6, 2048), down)]
    groups = (chosen, TensorType("i32", (257,)))
    costs = [(a, cost("expert_linear", a, w, *groups)) for a, w in parts]
    assert sum(one.flops for _, one in costs) / 1e6 == pytest.approx(301.99, rel=0.01)
    read = sum(one.read - activations(a, *groups) for a, one in costs)
    assert read / 1e6 == pytest.approx(megabytes, rel=0.001)


def test_distinct_experts_of_a_batch() -> None:
    """64 tokens choose 199.9 of 256 experts when the routing is even."""
    weight = WeightType("mxfp4", (256, 2048, 4096))
    types: dict[str, Type] = {
        "x": x(4096),
        "w": weight,
        "o": TensorType("i32", (T, 6)),
        "b": TensorType("i32", (257,)),
        "y": x(6, 2048),
    }
    node = Node("expert_linear", ("x", "w", "o", "b"), ("y",))
    env = {**ENV, "T": 64}
    read = node_cost(node, types, env).read - 64 * (4096 * 2 + 6 * 4) - 257 * 4
    assert read / weight.nbytes(env) == pytest.approx(199.9 / 256, rel=0.001)


@pytest.mark.parametrize(
    ("entries", "mflop", "kilobytes"),
    [(128, 16.78, 74.8), (640, 83.89, 373.8), (1152, 150.99, 672.8)],
)
def test_core_attention(entries: int, mflop: float, kilobytes: float) -> None:
    index, rows, q = TensorType("i32", (T, entries)), x(entries, 512), x(64, 512)
    scores = TensorType("f32", (T, 64, entries))
    gather = cost("gather_rows", KV, index, width=512)
    products = cost("attention_scores", q, rows, index, scale=0.04) + cost(
        "attention_values", scores, rows
    )
    assert products.flops / 1e6 == pytest.approx(mflop, rel=0.01)
    assert (gather.read - activations(index)) / 1e3 == pytest.approx(kilobytes, rel=0.001)
    assert gather.write == activations(rows)


def test_index_scores() -> None:
    operands = (x(64, 128), TensorType("f32", (T, 64)), INDEX, POS, POS, TABLE)
    found = cost("index_scores", *operands, ratio=4, page=32, scale=0.01)
    assert found.flops / 1e6 == pytest.approx(543.16, rel=0.01)
    assert (found.read - activations(*operands)) / 1e3 == pytest.approx(2228.2, rel=0.001)


@pytest.mark.parametrize("fmt", ["bf16", "f32"])
def test_tables_are_read_by_row(fmt: str) -> None:
    table = WeightType(fmt, (129280, 4096))
    row = table.nbytes(ENV) / 129280
    assert cost("embed", POS, table).read == pytest.approx(row + 4)
    hashed = cost(
        "route_hash",
        TensorType("f32", (T, 256)),
        WeightType("i64", (129280, 6)),
        POS,
        k=6,
        scale=1.5,
    )
    assert hashed.read == pytest.approx(6 * 8 + 256 * 4 + 4)


FUSED = """\
graph "fused" stage(fused) {
  in %y: bf16[T, 64]
  in %angles: f32[T, 8]
  in %where: i32[T]
  in %cache: cache<bf16, width=64, rope=8, page=32, paged>
  %r: bf16[T, 64], %cache.1: cache<bf16, width=64, rope=8, page=32, paged> = fused.norm_insert(%y, %angles, %cache, %where) {
    %n: bf16[T, 64] = head_norm(%y)
    %r: bf16[T, 64] = rope(%n, %angles)
    %cache.1: cache<bf16, width=64, rope=8, page=32, paged> = insert_rows(%cache, %r, %where)
  }
  %v: bf16[T, 8, 8] = view(%r) {shape=[8, 8]}
  return %v, %cache.1
}
"""


def test_a_fused_node_has_its_bodys_work_and_its_own_boundary() -> None:
    graph = parse(FUSED)
    fused, view = graph.nodes
    assert fused.body is not None
    env = {"T": 10}
    inner = graph_cost(fused.body, env)
    found = node_cost(fused, graph.types, env)
    entries = 10 * 128
    assert found.flops == inner.flops == 10 * (3 * 64 + 3 * 8)
    assert found.read == 10 * (64 * 2 + 8 * 4 + 4) + entries
    assert found.write == 10 * 64 * 2
    assert inner.read + inner.write == found.read + found.write + 3 * 10 * 64 * 2
    assert node_cost(view, graph.types, env) == Cost()
    assert graph_cost(graph, env) == found


def test_a_value_read_twice_by_a_node_is_counted_once() -> None:
    types: dict[str, Type] = {"a": x(4, 8), "y": x(8, 8)}
    node = Node("concat", ("a", "a"), ("y",))
    graph = Graph("twice", "model", ("a",), (node,), ("y",), types)
    assert graph_cost(graph, ENV) == Cost(0, 64, 128)


def test_a_cache_is_read_once_however_many_tokens_look_at_it() -> None:
    """4,096 tokens of 8 sequences of 2 pages: 64 entries of 584 bytes each, not 640 a token."""
    types: dict[str, Type] = {"c": KV, "i": TensorType("i32", (T, 640)), "y": x(640, 512)}
    node = Node("gather_rows", ("c", "i"), ("y",), {"width": 512})
    env = {"T": 4096, "S": 8, "P": 2, "R": 8}
    read = node_cost(node, types, env).read - 4096 * 640 * 4
    assert read == 8 * 2 * 32 * 584
    assert node_cost(node, types, {**env, "T": 1}).read - 640 * 4 == 8 * 2 * 32 * 584
    assert node_cost(node, types, {**env, "T": 1, "P": 64}).read - 640 * 4 == 640 * 584


def test_partial_rows_are_read_and_written_once() -> None:
    """4,096 tokens of 8 sequences: 8 rows of 2 x 1,024 f32 each way; one token: two rows of 1,024."""
    rows, values = RowsType(8, 2048), TensorType("f32", (T, 1024))
    ape = WeightType("f32", (4, 1024))
    operands: dict[str, Type] = {"r": rows, "k": values, "g": values, "a": ape}
    for name in ("pos", "slot", "start"):
        operands[name] = POS
    made: dict[str, Type] = {"y": x(512), "r1": rows}
    node = Node("compress_pool", tuple(operands), tuple(made), {"ratio": 4, "width": 512})
    for tokens, moved in ((1, 16 * 1024), (4096, 2 * 8 * 8 * 2048 * 4)):
        env = {"T": tokens, "S": 8, "P": 4}
        boundary = sum(one.nbytes(env) for one in operands.values() if one is not rows)
        assert node_cost(node, operands | made, env).read - boundary == moved


TAKEN = """\
graph "head" stage(fused) {
  in %y: bf16[T, 64]
  in %z: bf16[T, 64]
  in %rows: i32[R]
  %t: bf16[R, 64], %m: bf16[T, 64] = fused.taken(%y, %z, %rows) {
    %n: bf16[T, 64] = head_norm(%y)
    %m: bf16[T, 64] = head_norm(%z)
    %t: bf16[R, 64] = take_rows(%n, %rows)
  }
  return %t, %m
}
"""


def test_rows_that_are_taken_are_the_rows_that_cost() -> None:
    """%n and %y are wanted for 3 rows, %m and %z for all 100."""
    graph = parse(TAKEN)
    found = node_cost(graph.nodes[0], graph.types, {"T": 100, "R": 3})
    assert found == Cost(103 * 3 * 64, 103 * 64 * 2 + 3 * 4, 103 * 64 * 2)


REGION = """\
graph "two" stage(model) {
  in %y: bf16[T, 64]
  in %w: weight<bf16>[32, 64]
  in %z: weight<bf16>[16, 32]
  %a: bf16[T, 32] = linear(%y, %w)
  %b: bf16[T, 16] = linear(%a, %z)
  %c: bf16[T, 16] = linear(%a, %z)
  return %b, %c
}
"""


def test_a_region_moves_what_crosses_its_boundary() -> None:
    graph, env = parse(REGION), {"T": 10}
    weights = 2 * (32 * 64 + 16 * 32)
    whole = region_cost(graph, graph.nodes, env)
    assert whole == Cost(graph_cost(graph, env).flops, 10 * 64 * 2 + weights, 2 * 10 * 16 * 2)
    first = region_cost(graph, graph.nodes[:2], env)
    assert first.read == 10 * 64 * 2 + weights
    assert first.write == 10 * 32 * 2 + 10 * 16 * 2
    assert region_cost(graph, graph.nodes[1:2], env) == node_cost(graph.nodes[1], graph.types, env)
