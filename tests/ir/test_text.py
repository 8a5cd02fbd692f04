"""The text form: parse(show(graph)) == graph, and errors that name the line."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4c.errors import DsvError
from dsv4c.ir.cache import CacheLayout
from dsv4c.ir.graph import STAGES, Attr, Graph, Node, Origin, Scratch
from dsv4c.ir.text import parse, show, show_node
from dsv4c.ir.types import (
    DTYPE_BYTES,
    CacheType,
    Dim,
    RowsType,
    Sym,
    TensorType,
    Type,
    WeightType,
    parse_dim,
    parse_type,
)
from dsv4c.ir.weight_formats import FORMATS

GOLDEN = """\
graph "small" stage(planned) step(T=512, P=16) {
  in %ids: i32[T]
  in %angles: f32[T, 8]
  in %layers.1.w: weight<mxfp4>[3, 64, 32] = "e.{0..2}.w.weight", "e.{0..2}.w.scale"
  in %L1.window: cache<fp8, width=512, rope=64, page=128, ring=640>
  in %L1.rows: rows<8, 2048>
  %x: bf16[T, 32*P+128] = embed(%ids, %layers.1.w) {dtype="bf16"} @ L1 "e.w" "f.w" ! reference[0]
  %y: f32[T], %L1.rows.1: rows<8, 2048> = pool(%x, %L1.rows) ! reference[256, -1]
  %z: bf16[T] = fused.norm_rope(%x, %angles) {eps=1e-06, flags=[1, -2]} @ L1 ! norm_rope_8[512, 256, 0] scratch(bf16[7*T, 64], zeroed i32[4]) {
    %h: bf16[T] = head_norm(%x)
    %z: bf16[T] = rope(%h, %angles) {inverse=true}
  }
  return %z, %L1.rows.1
}
"""


def test_every_part_of_the_form() -> None:
    graph = parse(GOLDEN)
    assert show(graph) == GOLDEN
    embed, pool, fused = graph.nodes
    assert graph.sources == {"layers.1.w": ("e.{0..2}.w.weight", "e.{0..2}.w.scale")}
    assert graph.types["x"] == TensorType("bf16", (Sym("T"), Sym("P", 32, 128)))
    assert embed.origin == Origin(1, ("e.w", "f.w"))
    assert (pool.outputs, pool.offsets, pool.impl) == (("y", "L1.rows.1"), (256, -1), "reference")
    assert (fused.kind, fused.impl, fused.offsets) == (
        "fused.norm_rope",
        "norm_rope_8",
        (512, 256, 0),
    )
    assert fused.scratch == (
        Scratch(TensorType("bf16", (Sym("T", 7), 64))),
        Scratch(TensorType("i32", (4,)), zeroed=True),
    )
    assert (embed.scratch, graph.step) == ((), {"T": 512, "P": 16})
    assert fused.attrs == {"kind": "norm_rope", "eps": 1e-6, "flags": (1, -2)}
    assert fused.body is not None
    assert [node.op for node in fused.body.nodes] == ["head_norm", "rope"]
    assert set(fused.body.types) == {"x", "angles", "h", "z"}
    assert show_node(embed, graph) == GOLDEN.splitlines()[6].strip()


@pytest.mark.parametrize("value", [1, 1.0, -2.5e-30, True, False, "a, {b} \"c\" = [1] ! é\n", (), (3, 4), (5,)])  # fmt: skip
def test_attributes_keep_their_type(value: Attr) -> None:
    attrs: dict[str, Attr] = {"first": value, "second": 7}
    node = Node("op", ("x",), ("y",), attrs)
    types: dict[str, Type] = {"x": TensorType("f32", ()), "y": TensorType("f32", ())}
    back = parse(show(Graph("g", "model", ("x",), (node,), ("y",), types))).nodes[0].attrs
    assert back == attrs
    assert type(back["first"]) is type(value)


names = st.sampled_from(["x", "L1.attn.q", "layers.0.attn.wq_a", "_A9.b_c.1"])
dims: st.SearchStrategy[Dim] = st.integers(0, 9999) | st.builds(
    Sym, st.sampled_from("TSPR"), st.integers(1, 64), st.integers(0, 999)
)
sizes = st.lists(st.integers(1, 9999), max_size=3).map(tuple)
tensors = st.builds(TensorType, st.sampled_from(list(DTYPE_BYTES)), st.lists(dims, max_size=4).map(tuple))  # fmt: skip
weights = st.builds(WeightType, st.sampled_from(list(FORMATS)), sizes)
layouts = st.sampled_from(
    [
        CacheLayout("fp8", 512, 64, 32),
        CacheLayout("f32", 24, 8, 1),
        CacheLayout("mxfp4", 128, 0, 32),
    ]
)
states = st.builds(CacheType, layouts, st.sampled_from([0, 640])) | st.builds(
    RowsType, st.integers(1, 128), st.integers(1, 4096)
)
types: st.SearchStrategy[Type] = tensors | weights | states
attr_names = st.sampled_from(["eps", "shape", "a_b", "scale"])
attrs = st.dictionaries(
    attr_names,
    st.integers()
    | st.floats(allow_nan=False)
    | st.booleans()
    | st.text(max_size=8)
    | st.lists(st.integers(), max_size=3).map(tuple),
    max_size=3,
)
origins = st.builds(
    Origin, st.none() | st.integers(0, 99), st.lists(st.text(max_size=12), max_size=3).map(tuple)
)
scratches = st.builds(Scratch, tensors, st.booleans())
words = st.sampled_from(["op", "rope", "norm_rope_8x4"])


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    stage = draw(st.sampled_from(STAGES))
    fresh = (f"{draw(names)}.{i}" for i in itertools.count())
    known = {next(fresh): kind for kind in draw(st.lists(types, min_size=1, max_size=4))}
    inputs = tuple(known)
    sources = {
        name: tuple(draw(st.lists(st.text(max_size=12), min_size=1, max_size=3)))
        for name, kind in known.items()
        if isinstance(kind, WeightType)
    }

    def node(scope: dict[str, Type], depth: int) -> Node:
        taken = tuple(draw(st.lists(st.sampled_from(list(scope)), min_size=1, max_size=3)))
        made = {next(fresh): kind for kind in draw(st.lists(types, min_size=1, max_size=2))}
        scope.update(made)
        impl, wants, offsets = "", (), ()
        if depth == 0 and stage in ("lowered", "planned"):
            impl = draw(words)
            wants = tuple(draw(st.lists(scratches, max_size=2)))
            offsets = tuple(range(-1, len(made) - 1)) if stage == "planned" else ()
        if depth < 2 and draw(st.booleans()):
            inner = {value: known[value] if value in known else scope[value] for value in taken}
            parts = [node(inner, depth + 1) for _ in range(draw(st.integers(0, 2)))]
            parts.append(Node(draw(words), taken, tuple(made), draw(attrs)))
            kind = draw(words)
            body = Graph(kind, "model", taken, tuple(parts), tuple(made), inner | made)
            own: dict[str, Attr] = {"kind": kind, **draw(attrs)}
            return Node("fused", taken, tuple(made), own, draw(origins), body, impl, wants, offsets)
        return Node(
            *(draw(words), taken, tuple(made), draw(attrs), draw(origins)),
            *(None, impl, wants, offsets),
        )

    nodes = tuple(node(known, 0) for _ in range(draw(st.integers(1, 4))))
    outputs = tuple(draw(st.lists(st.sampled_from(list(known)), min_size=1, max_size=2)))
    step = {"T": 4, "P": 2} if stage == "planned" else {}
    return Graph(draw(st.text(max_size=8)), stage, inputs, nodes, outputs, known, sources, step)


@settings(max_examples=50, deadline=None)
@given(graphs())
def test_random_graphs_round_trip(graph: Graph) -> None:
    assert parse(show(graph)) == graph


@given(types)
@settings(deadline=None)
def test_types_round_trip(type_: Type) -> None:
    assert parse_type(str(type_)) == type_


@given(dims)
@settings(deadline=None)
def test_dims_round_trip(dim: Dim) -> None:
    assert parse_dim(str(dim)) == dim


BROKEN = {
    'graph "small"': ("graph small", 1, 'graph "NAME" stage('),
    "stage(planned)": ("stage(done)", 1, "model|fused|lowered|planned"),
    "in %ids: i32[T]": ("in %ids i32[T]", 2, "in %NAME: TYPE"),
    "i32[T]": ("int[T]", 2, "dtype[dims]"),
    "f32[T, 8]": ("f32[T, 8.5]", 3, "dtype[dims]"),
    "weight<mxfp4>": ("weight<fp3>", 4, "weight<format>[dims]"),
    '"e.{0..2}.w.weight", ': ('"e.{0..2}.w.weight" x ', 4, 'TYPE = "TENSOR"'),
    "width=512": ("width=500", 5, "64"),
    "rows<8, 2048>\n  %x": ("rows<8>\n  %x", 6, "rows<...>"),
    "%x: bf16[T, 32*P+128]": ("%x bf16[T]", 7, "%VALUE: TYPE"),
    "embed(%ids,": ("embed(%id,", 7, "%id to be defined above"),
    "embed(%ids, ": ("embed(%ids ids ", 7, "op(%OPERAND, ...)"),
    'dtype="bf16"': ("dtype=bf16", 7, "{ATTR=...}"),
    'dtype="bf16"}': ('dtype "bf16"}', 7, "{ATTR=...}"),
    "flags=[1, -2]": ("flags=[1.5]", 9, "{ATTR=...}"),
    "eps=1e-06": ("eps=null", 9, "{ATTR=...}"),
    "    %h:": ("    h:", 9, "a body that ends with `}`"),
    "return %z": ("returns %z", 13, "`return %VALUE, ...` and `}`"),
    "%L1.rows.1\n}\n": ("%L1.rows.1\n}\nmore\n", 13, "`return %VALUE, ...` and `}`"),
}


@pytest.mark.parametrize("old", BROKEN)
def test_errors_name_the_line(old: str) -> None:
    new, line, expected = BROKEN[old]
    assert GOLDEN.count(old) >= 1
    with pytest.raises(DsvError) as caught:
        parse(GOLDEN.replace(old, new, 1))
    assert caught.value.code == "DSV221"
    assert caught.value.where == f"line {line}"
    assert expected in caught.value.expected


def test_empty_text_is_an_error_of_line_1() -> None:
    with pytest.raises(DsvError, match="line 1"):
        parse("\n\n")
