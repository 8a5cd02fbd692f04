"""The verifier: every rule, broken once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from dsv4c.errors import DsvError
from dsv4c.ir.graph import Graph, Node, Scratch
from dsv4c.ir.text import parse
from dsv4c.ir.types import Sym, TensorType, Type
from dsv4c.ir.verify import problems, verify

MODEL = parse(
    """\
graph "small" stage(model) {
  in %x: bf16[T, 64]
  in %where: i32[T]
  in %angles: f32[T, 8]
  in %w: weight<bf16>[64, 64] = "w.weight"
  in %cache: cache<bf16, width=64, rope=8, page=32, paged>
  %y: bf16[T, 64] = linear(%x, %w) @ "w.weight"
  %n: bf16[T, 64] = head_norm(%y)
  %r: bf16[T, 64] = rope(%n, %angles)
  %old: bf16[T, 4, 64] = gather_rows(%cache, %index) {width=64}
  %cache.1: cache<bf16, width=64, rope=8, page=32, paged> = insert_rows(%cache, %r, %where)
  %new: bf16[T, 4, 64] = gather_rows(%cache.1, %index) {width=64}
  %both: bf16[T, 8, 64] = concat(%old, %new)
  return %both, %cache.1
}
""".replace("  in %angles", "  in %index: i32[T, 4]\n  in %angles")
)

FUSED = parse("""\
graph "fused" stage(fused) {
  in %x: bf16[T, 64]
  in %angles: f32[T, 8]
  in %where: i32[T]
  in %cache: cache<bf16, width=64, rope=8, page=32, paged>
  %y: bf16[T, 64], %cache.1: cache<bf16, width=64, rope=8, page=32, paged> = fused.norm_insert(%x, %angles, %cache, %where) {
    %n: bf16[T, 64] = head_norm(%x)
    %y: bf16[T, 64] = rope(%n, %angles)
    %cache.1: cache<bf16, width=64, rope=8, page=32, paged> = insert_rows(%cache, %y, %where)
  }
  return %y, %cache.1
}
""")

PLANNED = parse("""\
graph "planned" stage(planned) step(T=2) {
  in %x: bf16[T, 64]
  in %where: i32[T]
  in %cache: cache<bf16, width=64, rope=8, page=32, paged>
  %v: bf16[T, 8, 8] = view(%x) {shape=[8, 8]} ! reference[-1]
  %a: bf16[T, 64] = head_norm(%x) ! reference[0]
  %b: bf16[T, 64] = head_norm(%a) ! some_kernel[256, 512, 0] scratch(f32[2*T], zeroed i32[4])
  %c: bf16[T, 8, 8] = view(%b) {shape=[8, 8]} ! reference[256]
  %d: bf16[T, 64] = head_norm(%b) ! reference[0]
  %cache.1: cache<bf16, width=64, rope=8, page=32, paged> = insert_rows(%cache, %d, %where) ! reference[-1]
  return %c, %v, %cache.1
}
""")


def changed(graph: Graph, name: str, **changes: object) -> Graph:
    """The graph with fields of one node replaced."""
    nodes = [replace(node, **changes) if node.name == name else node for node in graph.nodes]  # pyright: ignore[reportArgumentType]
    return replace(graph, nodes=tuple(nodes))


def ordered(graph: Graph, *names: str) -> Graph:
    return replace(graph, nodes=tuple(graph.producers[name] for name in names))


def typed(graph: Graph, types: Mapping[str, Type], without: str = "") -> Graph:
    return replace(graph, types={k: v for k, v in {**graph.types, **types}.items() if k != without})


def body(**changes: object) -> Graph:
    (node,) = FUSED.nodes
    assert node.body is not None
    return changed(FUSED, "y", body=replace(node.body, **changes))  # pyright: ignore[reportArgumentType]


def inner(*names: str) -> tuple[Node, ...]:
    made = FUSED.nodes[0].body
    assert made is not None
    return tuple(made.producers[name] for name in names)


ALL = [node.name for node in MODEL.nodes]
F32 = TensorType("f32", (Sym("T"), 64))


@pytest.mark.parametrize("graph", [MODEL, FUSED, PLANNED], ids=lambda graph: graph.name)
def test_valid(graph: Graph) -> None:
    verify(graph)
    assert list(problems(graph)) == []


RULES = {
    "unknown stage": (replace(MODEL, stage="done"), "unknown stage done"),
    "use before definition": (
        ordered(MODEL, "n", "y", *ALL[2:]),
        "%y is used before it is defined",
    ),
    "defined twice": (
        replace(MODEL, nodes=(*MODEL.nodes, MODEL.nodes[0])),
        "%y is defined twice",
    ),
    "shadows an input": (changed(MODEL, "n", outputs=("x",)), "%x is defined twice"),
    "output without type": (typed(MODEL, {}, "both"), "%both has no type"),
    "input without type": (typed(MODEL, {}, "angles"), "%angles has no type"),
    "other type": (typed(MODEL, {"y": F32}), "declares f32[T, 64]; linear gives bf16[T, 64]"),
    "unknown op": (changed(MODEL, "n", op="norm"), "there is no op norm"),
    "too few operands": (changed(MODEL, "y", inputs=("x",)), "linear takes 2 operands, found 1"),
    "unknown attribute": (changed(MODEL, "n", attrs={"e": 1}), "head_norm has no attribute e"),
    "no provenance": (
        changed(MODEL, "y", origin=replace(MODEL.nodes[0].origin, tensors=())),
        "reads a weight but names no checkpoint tensor",
    ),
    "undefined result": (replace(MODEL, outputs=("z",)), "the graph returns %z, which is not"),
    "type without value": (typed(MODEL, {"z": F32}), "%z has a type but no definition"),
    "stale read": (
        ordered(MODEL, "y", "n", "r", "cache.1", "old", "new", "both"),
        "reads %cache after cache.1 overwrote it",
    ),
    "two writers": (
        replace(
            MODEL,
            nodes=(*MODEL.nodes, replace(MODEL.producers["cache.1"], outputs=("cache.2",))),
            types={**MODEL.types, "cache.2": MODEL.types["cache"]},
        ),
        "reads %cache after cache.1 overwrote it",
    ),
    "stale result": (
        replace(MODEL, outputs=("both", "cache", "cache.1")),
        "the graph returns %cache, which cache.1 overwrote",
    ),
    "state not returned": (
        replace(MODEL, outputs=("both",)),
        "the last version of a state, %cache.1, is not returned",
    ),
    "body without fused": (changed(FUSED, "y", op="rope"), "has a body but is not a fused node"),
    "body without kind": (changed(FUSED, "y", attrs={}), "has a body but is not a fused node"),
    "fused without body": (changed(FUSED, "y", body=None), "there is no op fused"),
    "body of other inputs": (
        body(inputs=("x", "angles", "where", "cache")),
        "the body's inputs and outputs differ from the node's",
    ),
    "body of other outputs": (
        body(outputs=("cache.1", "y")),
        "the body's inputs and outputs differ from the node's",
    ),
    "type inside the body": (
        typed(FUSED, {"angles": TensorType("f32", (Sym("T"), 16))}),
        "%angles has another type inside the body",
    ),
    "order in the body": (body(nodes=inner("y", "n", "cache.1")), "%n is used before it is def"),
    "result that the body lacks": (body(nodes=inner("n", "y")), "returns %cache.1, which is not"),
    "no implementation": (changed(PLANNED, "b", impl=""), "nothing runs this node: impl is empty"),
    "lowered without implementation": (
        replace(MODEL, stage="lowered"),
        "nothing runs this node: impl is empty",
    ),
    "planned for no step": (replace(PLANNED, step={}), "has no step that its arena is laid out"),
    "step without a size": (replace(PLANNED, step={"S": 2}), "its step has no size 'T'"),
    "too few offsets": (
        changed(PLANNED, "b", offsets=(256, 512)),
        "has 2 offsets for 1 outputs and 2 scratch",
    ),
    "tensor without offset": (changed(PLANNED, "a", offsets=(-1,)), "%a has offset -1"),
    "state with offset": (changed(PLANNED, "cache.1", offsets=(0,)), "%cache.1 has offset 0"),
    "view of an input with offset": (changed(PLANNED, "v", offsets=(512,)), "%v has offset 512"),
    "view elsewhere": (changed(PLANNED, "c", offsets=(512,)), "%c has offset 512"),
    "crooked offset": (changed(PLANNED, "a", offsets=(8,)), "offset 8 is no multiple of 256"),
    "scratch without offset": (
        changed(PLANNED, "b", offsets=(256, 512, -1)),
        "its scratch has offset -1",
    ),
    "place of a live value": (
        changed(PLANNED, "a", offsets=(256,)),
        "%b overwrites %a, still in use",
    ),
    "scratch over an operand": (
        changed(PLANNED, "b", offsets=(256, 0, 0)),
        "%b#0 overwrites %a, still in use",
    ),
    "place of a value that a view keeps": (
        changed(PLANNED, "d", offsets=(256,)),
        "%d overwrites %b, still in use",
    ),
    "zeroed scratch twice": (
        changed(
            PLANNED,
            "b",
            scratch=(Scratch(TensorType("i32", (4,)), True),) * 2,
            offsets=(256, 0, 0),
        ),
        "zeroed scratch at 0 overlaps another",
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule: str) -> None:
    graph, message = RULES[rule]
    with pytest.raises(DsvError) as caught:
        verify(graph, "my_pass")
    assert caught.value.code == "DSV222"
    assert caught.value.what == "the graph breaks a rule after my_pass"
    assert message in caught.value.found


def test_the_message_has_stage_and_node() -> None:
    with pytest.raises(DsvError) as caught:
        verify(typed(MODEL, {"n": F32}))
    assert caught.value.what == "the graph breaks a rule"
    assert caught.value.where == "stage model, node %n: f32[T, 64] = head_norm(%y)"
