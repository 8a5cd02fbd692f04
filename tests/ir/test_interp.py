"""The interpreter: precisions, states in place, fused bodies, lifetime of values."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import torch

from dsv4c.ir.graph import Node
from dsv4c.ir.interp import run_graph
from dsv4c.ir.text import parse
from dsv4c.ir.types import CacheType, WeightType
from dsv4c.ir.values import Operand, State, Weight

NODES = """\
  %y: bf16[T, 64] = linear(%x, %w) @ "w.weight"
{norm_insert}
  %rows: bf16[T, 4, 64] = gather_rows(%cache.1, %index) {{width=64}}
  return %r, %rows, %cache.1
}}
"""
BODY = """\
{pad}  %n: bf16[T, 64] = head_norm(%y)
{pad}  %r: bf16[T, 64] = rope(%n, %angles)
{pad}  %cache.1: cache<bf16, width=64, rope=8, page=32, paged> = insert_rows(%cache, %r, %where)
"""
INPUTS = """\
graph "small" stage(fused) {
  in %x: bf16[T, 64]
  in %angles: f32[T, 8]
  in %where: i32[T]
  in %index: i32[T, 4]
  in %w: weight<f32>[64, 64] = "w.weight"
  in %cache: cache<bf16, width=64, rope=8, page=32, paged>
"""
CACHE = "cache<bf16, width=64, rope=8, page=32, paged>"
PLAIN = parse(INPUTS + NODES.format(norm_insert=BODY.format(pad="")))
FUSED = parse(
    INPUTS
    + NODES.format(
        norm_insert=f"  %r: bf16[T, 64], %cache.1: {CACHE} = fused.norm_insert"
        f"(%y, %angles, %cache, %where) {{\n{BODY.format(pad='  ')}  }}"
    )
)


def values() -> dict[str, Operand]:
    generator = torch.Generator().manual_seed(0)
    cache = PLAIN.types["cache"]
    assert isinstance(cache, CacheType)
    kind = PLAIN.types["w"]
    assert isinstance(kind, WeightType)
    return {
        "x": torch.randn(3, 64, generator=generator).bfloat16(),
        "angles": torch.randn(3, 8, generator=generator),
        "where": torch.tensor([5, -1, 40], dtype=torch.int32),
        "index": torch.tensor([[40, 5, -1, -1]] * 3, dtype=torch.int32),
        "w": Weight(kind, (torch.randn(64, 64, generator=generator),)),
        "cache": State.allocate(cache, {"N": 2}, "cpu"),
    }


def tensor(value: Operand) -> torch.Tensor:
    assert isinstance(value, torch.Tensor)
    return value


def test_plan_precision_rounds_every_result_to_its_type() -> None:
    env = values()
    found = run_graph(PLAIN, env)
    weight = env["w"]
    assert isinstance(weight, Weight)
    y = (tensor(env["x"]).float() @ weight.components[0].T).bfloat16()
    n = y.float() * torch.rsqrt(y.float().square().mean(-1, keepdim=True) + 1e-6)
    r = tensor(found["r"])
    assert r.dtype == torch.bfloat16
    assert torch.equal(r[:, :56], n.bfloat16()[:, :56])
    assert torch.equal(tensor(found["rows"])[0, :2], r[[2, 0]])


def test_exact_precision_never_rounds() -> None:
    env = values()
    r = tensor(run_graph(PLAIN, env, "exact")["r"])
    weight = env["w"]
    assert isinstance(weight, Weight)
    y = tensor(env["x"]).double() @ weight.components[0].double().T
    n = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6)
    assert r.dtype == torch.float64
    torch.testing.assert_close(r[:, :56], n[:, :56], rtol=1e-13, atol=0)


def test_states_are_written_in_place() -> None:
    env = values()
    found = run_graph(PLAIN, env)
    before, after = env["cache"], found["cache.1"]
    assert isinstance(before, State)
    assert isinstance(after, State)
    assert after.buffer is before.buffer
    assert torch.equal(after.buffer[1, 8], tensor(found["r"])[2])
    assert int(after.buffer.count_nonzero(-1).count_nonzero()) == 2


def test_a_fused_node_is_its_body() -> None:
    for precision in ("plan", "exact"):
        plain, fused = (run_graph(graph, values(), precision) for graph in (PLAIN, FUSED))
        assert torch.equal(tensor(plain["r"]), tensor(fused["r"]))
        assert torch.equal(tensor(plain["rows"]), tensor(fused["rows"]))
        one, other = plain["cache.1"], fused["cache.1"]
        assert isinstance(one, State)
        assert isinstance(other, State)
        assert torch.equal(one.buffer, other.buffer)


def test_observe_sees_operands_and_results_of_each_node() -> None:
    seen: list[tuple[str, int, int]] = []

    def observe(node: Node, operands: Sequence[Operand], results: Sequence[Operand]) -> None:
        seen.append((node.kind, len(operands), len(results)))

    run_graph(FUSED, values(), observe=observe)
    assert seen == [("linear", 2, 1), ("fused.norm_insert", 4, 2), ("gather_rows", 2, 1)]


def test_dead_values_are_dropped_as_it_goes() -> None:
    """A chain of norms: no more than the operand and the result of a node live at once."""
    chain = "".join(f"  %v{i + 1}: f32[T, 4] = head_norm(%v{i})\n" for i in range(6))
    graph = parse(f'graph "chain" stage(model) {{\n  in %v0: f32[T, 4]\n{chain}  return %v6\n}}\n')
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def observe(node: Node, operands: Sequence[Operand], results: Sequence[Operand]) -> None:
        made.append(weakref.ref(tensor(results[0])))
        alive.append(sum(value() is not None for value in made))

    run_graph(graph, {"v0": torch.ones(2, 4)}, observe=observe)
    assert alive == [1, 2, 2, 2, 2, 2]


def test_only_outputs_are_returned() -> None:
    assert list(run_graph(PLAIN, values())) == ["r", "rows", "cache.1"]
