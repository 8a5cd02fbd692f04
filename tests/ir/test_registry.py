"""Every op as its declaration says: inferred types against what the reference returns."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

from dsv4c.ir.cache import CacheLayout
from dsv4c.ir.cost import node_cost
from dsv4c.ir.graph import Attr, Graph, Node, Origin
from dsv4c.ir.interp import run_node
from dsv4c.ir.op import OPS, Arg, OpError, OpSpec, infer
from dsv4c.ir.text import parse, show
from dsv4c.ir.types import (
    FLOATS,
    CacheType,
    Dim,
    Dims,
    RowsType,
    Sym,
    TensorType,
    Type,
    WeightType,
    evaluate,
)
from dsv4c.ir.values import TORCH_DTYPES, Operand, State, Weight
from dsv4c.ir.verify import verify

Sizes = dict[str, Dim | Dims]
ENV = {"T": 5, "S": 3, "P": 2, "R": 2, "N": 8}
PAGE, WIDTH = 32, 64
# Sizes of named dims that no run-time symbol stands for; `*b` is any number of dims.
SIZES: Sizes = {
    "*b": (Sym("T"), 3),
    "*h": (3,),
    "*j": (),
    "E": 8,
    "H": 3,
    "K": 7,
    "V": 11,
    "c": WIDTH,
    "d": 12,
    "g": 2,
    "h": 4,
    "k": 6,
    "m": 6,
    "n": 32,
    "r": 8,
    "s": 4,
}
ROWS = RowsType(8, 64)
CACHE = CacheType(CacheLayout("bf16", WIDTH, 8, PAGE))


@dataclass(frozen=True)
class Case:
    """What the declaration of an op does not tell: attributes, and sizes that depend on them."""

    attrs: dict[str, Attr] = field(default_factory=dict[str, Attr])
    sizes: Sizes = field(default_factory=dict[str, "Dim | Dims"])


PAGED: dict[str, Attr] = {"ratio": 4, "page": PAGE}
CASES: dict[str, Case] = {
    "attention_scores": Case({"scale": 0.125}),
    "compress_pool": Case({"ratio": 4, "width": 16}, {"m": 4, "k": 32}),
    "concat": Case(sizes={"*b": (3,), "m": 4, "n": Sym("P", PAGE)}),
    "entry_slots": Case(PAGED),
    "expand_streams": Case({"streams": 4}),
    "expert_linear": Case(sizes={"bounds": 9}),
    "gather_rows": Case({"width": WIDTH}),
    "group_tokens": Case({"bounds": 9}),
    "grouped_linear": Case(sizes={"n": 10}),
    "index_scores": Case({**PAGED, "scale": 0.1}, {"d": WIDTH}),
    "mhc_coefficients": Case({"streams": 4, "iters": 20}, {"m": 24}),
    "mhc_mix": Case(sizes={"m": 24, "k": 48}),
    "rope_angles": Case({"dims": 8, "theta": 1e4}),
    "route_hash": Case({"k": 2, "scale": 1.5}, {"k": 2}),
    "route_learned": Case({"k": 2, "scale": 1.5}),
    "routed_swiglu": Case({"limit": 10.0}),
    "swiglu": Case({"limit": 10.0}),
    "take_rows": Case(sizes={"*b": (4, 12)}),
    "topk_entries": Case({**PAGED, "k": 20}, {"E": Sym("P", PAGE)}),
    "view": Case({"shape": (2, 18)}, {"*b": (3, 12)}),
    "visible_entries": Case(PAGED),
    "window_entries": Case({"ring": 256, "window": 128}),
    "window_slots": Case({"ring": 256}),
}


def dims_of(pattern: str, case: Case) -> Dims:
    found: list[Dim] = []
    for name in pattern.split():
        size = case.sizes.get(name, SIZES.get(name))
        known = int(name) if name.isdigit() else Sym(name)
        found += size if isinstance(size, tuple) else [known if size is None else size]
    return tuple(found)


def type_of(arg: Arg, case: Case) -> Type:
    if arg.role == "cache":
        return CACHE
    if arg.role == "rows":
        return ROWS
    dims = dims_of(arg.dims, case)
    if arg.role == "weight":
        sizes = tuple(evaluate(dim, ENV) for dim in dims)
        return WeightType(
            "i64" if arg.name == "table" and "k" in arg.dims.split() else "f32", sizes
        )
    return TensorType("bf16" if arg.dtype in ("float", "any") else arg.dtype, dims)


def value_of(arg: Arg, type_: Type, generator: torch.Generator) -> Operand:
    if isinstance(type_, CacheType | RowsType):
        state = State.allocate(type_, ENV, "cpu")
        if isinstance(type_, CacheType):
            state.buffer.normal_(generator=generator)
        return state
    dims = tuple(evaluate(dim, ENV) for dim in type_.dims)
    if (isinstance(type_, TensorType) and type_.dtype == "i32") or "i64" in str(type_):
        # exclusive bounds of the numbers that index something
        bounds = {"ids": 11, "slot": ENV["S"], "pos": 60, "block_table": ENV["N"], "table": 8}
        bounds |= {"index": ENV["N"] * PAGE, "experts": 8, "rows": ENV["T"]}
        numbers = torch.randint(bounds.get(arg.name, 1), dims, generator=generator)
        if isinstance(type_, WeightType):
            return Weight(type_, (numbers,))
        return torch.arange(len(numbers)).int() if arg.name == "start" else numbers.int()
    values = torch.randn(dims, generator=generator)
    if isinstance(type_, WeightType):
        return Weight(type_, (values,))
    return values.to(TORCH_DTYPES[type_.dtype])


def single(op: str) -> tuple[Graph, dict[str, Operand]]:
    """A graph of one node of the op and random values for its inputs."""
    spec, case = OPS[op], CASES.get(op, Case())
    generator = torch.Generator().manual_seed(0)
    types = {f"x.{arg.name}": type_of(arg, case) for arg in spec.operands}
    values = {
        name: value_of(arg, types[name], generator)
        for arg, name in zip(spec.operands, types, strict=True)
    }
    results = infer(op, list(types.values()), case.attrs)
    outputs = {f"y.{arg.name}": kind for arg, kind in zip(spec.results, results, strict=True)}
    weights = [name for name, kind in types.items() if isinstance(kind, WeightType)]
    node = Node(op, tuple(types), tuple(outputs), case.attrs, Origin(3, tuple(weights)))
    sources = {name: (name,) for name in weights}
    graph = Graph("one", "model", tuple(types), (node,), tuple(outputs), types | outputs, sources)
    return graph, values


@pytest.mark.parametrize("spec", OPS.values(), ids=OPS)
def test_declaration_is_complete(spec: OpSpec) -> None:
    assert len(spec.doc) > 10
    assert spec.operands
    assert spec.results
    for args in (spec.operands, spec.results):
        assert len({arg.name for arg in args}) == len(args)
    states = [
        [arg.role for arg in args if arg.role in ("cache", "rows")]
        for args in (spec.results, spec.operands)
    ]
    assert states[0] == states[1][: len(states[0])]


@pytest.mark.parametrize("op", OPS)
def test_reference_returns_what_infer_says(op: str) -> None:
    graph, values = single(op)
    (node,) = graph.nodes
    for precision in ("plan", "exact"):
        results = run_node(node, [values[name] for name in node.inputs], graph.types, precision)
        for name, result in zip(node.outputs, results, strict=True):
            type_ = graph.types[name]
            if isinstance(result, State):
                assert result.type == type_
                continue
            assert isinstance(result, torch.Tensor)
            assert isinstance(type_, TensorType)
            exact = precision == "exact" and type_.dtype in FLOATS
            assert result.dtype == (torch.float64 if exact else TORCH_DTYPES[type_.dtype])
            assert tuple(result.shape) == tuple(evaluate(dim, ENV) for dim in type_.dims)
            assert not result.isnan().any()


@pytest.mark.parametrize("op", OPS)
def test_exact_and_plan_precision_agree_to_rounding(op: str) -> None:
    graph, values = single(op)
    (node,) = graph.nodes
    runs: list[tuple[Operand, ...]] = []
    for precision in ("plan", "exact"):
        inputs = [values[name] for name in node.inputs]
        fresh = [value.clone() if isinstance(value, State) else value for value in inputs]
        runs.append(run_node(node, fresh, graph.types, precision))
    for one, other in zip(*runs, strict=True):
        left = one.buffer if isinstance(one, State) else one
        right = other.buffer if isinstance(other, State) else other
        assert isinstance(left, torch.Tensor)
        assert isinstance(right, torch.Tensor)
        torch.testing.assert_close(left.double(), right.double(), rtol=2**-7, atol=1e-5)


@pytest.mark.parametrize("op", OPS)
def test_cost_is_not_negative(op: str) -> None:
    graph, _ = single(op)
    cost = node_cost(graph.nodes[0], graph.types, ENV)
    assert cost.flops >= 0
    assert cost.read >= 0
    assert cost.write >= 0


@pytest.mark.parametrize("op", OPS)
def test_one_node_graph_is_valid_and_round_trips(op: str) -> None:
    graph, _ = single(op)
    verify(graph)
    assert parse(show(graph)) == graph


T = Sym("T")
X = TensorType("bf16", (T, 12))
W = WeightType("bf16", (7, 12))


@pytest.mark.parametrize(
    ("op", "types", "attrs", "message"),
    [
        ("nothing", [], {}, "there is no op nothing"),
        ("linear", [X], {}, "linear takes 2 operands, found 1"),
        ("linear", [X, X], {}, "operand w of linear is a tensor, expected a weight"),
        ("linear", [W, W], {}, "operand x of linear is a weight, expected a tensor"),
        ("insert_rows", [X, X, X], {}, "operand cache of insert_rows is a tensor, expected a cache"),
        ("linear", [X, WeightType("bf16", (7, 13))], {}, "operand w of linear: dim k is 13, expected 12"),
        ("linear", [X, WeightType("bf16", (12,))], {}, "operand w of linear has 1 dims"),
        ("head_norm", [TensorType("i32", (T, 4))], {}, "has dtype i32, expected f64 or f32 or bf16"),
        ("window_slots", [X, X], {"ring": 256}, "operand pos of window_slots has 2 dims"),
        ("linear", [X, W], {"scale": 1.0}, "linear has no attribute scale; it has ['dtype']"),
        ("expand_streams", [X], {}, "expand_streams needs the attribute streams (int)"),
        ("expand_streams", [X], {"streams": 4.0}, "attribute streams of expand_streams is 4.0, not int"),
        ("rope", [X, TensorType("f32", (T, 4))], {"inverse": 1}, "attribute inverse of rope is 1, not bool"),
        ("rope", [X, TensorType("f32", (T, 64))], {}, "rope: more dims to rotate than there are"),
        ("view", [X], {"shape": (5, 2)}, "view: bf16[T, 12] cannot be viewed as [T, (5, 2)]"),
        ("grouped_linear", [TensorType("bf16", (T, 2, 12)), W], {}, "does not divide into"),
        ("gather_rows", [CACHE, TensorType("i32", (T, 4))], {"width": 8}, "width differs"),
        ("insert_rows", [CACHE, X, TensorType("i32", (T,))], {}, "rows of 12 for a cache of width 64"),
        (
            "route_hash",
            [TensorType("f32", (T, 8)), WeightType("i64", (9, 2)), TensorType("i32", (T,))],
            {"k": 3, "scale": 1.0},
            "attribute k of route_hash is 3, its operands have 2",
        ),
        (
            "concat",
            [TensorType("i32", (T, Sym("P"))), TensorType("i32", (T, Sym("R")))],
            {},
            "P and R cannot be added",
        ),
    ],
)  # fmt: skip
def test_infer_says_what_does_not_fit(
    op: str, types: list[Type], attrs: dict[str, Attr], message: str
) -> None:
    with pytest.raises(OpError) as caught:
        infer(op, types, attrs)
    assert message in str(caught.value)


def test_infer_fills_in_defaults_and_keeps_symbols() -> None:
    assert infer("linear", [X, W], {}) == (TensorType("bf16", (T, 7)),)
    assert infer("linear", [X, W], {"dtype": "f32"}) == (TensorType("f32", (T, 7)),)
    pages = TensorType("i32", (T, Sym("P", 32)))
    assert infer("concat", [TensorType("i32", (T, 128)), pages], {}) == (
        TensorType("i32", (T, Sym("P", 32, 128))),
    )
    assert infer("concat", [pages, pages], {}) == (TensorType("i32", (T, Sym("P", 64))),)
