"""The arena: memory is shared by values that do not live together, never by those that do."""

from __future__ import annotations

import random
from collections.abc import Callable

from hypothesis import given
from hypothesis.strategies import random_module

from dsv4c.codegen.lower import Lower
from dsv4c.ir.graph import Graph
from dsv4c.ir.lifetimes import ALIGNMENT, arena_size, stays
from dsv4c.ir.text import parse, show
from dsv4c.ir.types import TensorType
from dsv4c.ir.verify import verify
from dsv4c.models.deepseek_v4.config import ModelConfig
from dsv4c.passes.assign_buffers import AssignBuffers, _best_fit  # pyright: ignore

ENV = {"T": 512, "R": 512, "S": 8, "P": 16}
GRAPH = parse("""\
graph "small" stage(lowered) {
  in %x: f32[T, 64]
  in %where: i32[T]
  in %cache: cache<bf16, width=64, rope=0, page=32, paged>
  %input_view: f32[T, 8, 8] = view(%x) {shape=[8, 8]} ! reference
  %normed_view: f32[T, 8, 8] = head_norm(%input_view) ! reference
  %a: f32[T, 64] = head_norm(%x) ! some_kernel scratch(zeroed i32[T], f32[2*T, 16], zeroed u8[3])
  %b: f32[T, 64] = head_norm(%a) ! reference
  %view_of_b: f32[T, 64, 1] = view(%b) {shape=[64, 1]} ! reference
  %cache.1: cache<bf16, width=64, rope=0, page=32, paged> = insert_rows(%cache, %a, %where) ! reference
  %wide: f32[T, 128] = concat(%a, %b) ! reference
  %unused: f32[T, 128] = head_norm(%wide) {eps=0.5} ! reference
  %c: f32[T, 128] = head_norm(%wide) ! reference
  %last: f32[T, 64, 1] = head_norm(%view_of_b) ! reference
  return %c, %last, %cache.1
}
""")


def test_golden(golden: Callable[[str, str], None]) -> None:
    verify(GRAPH)
    planned = AssignBuffers({"T": 4}).run(GRAPH).graph
    verify(planned)
    golden("passes/assign_buffers/before.ir", show(GRAPH))
    golden("passes/assign_buffers/after.ir", show(planned))


def test_views_share_and_states_have_none() -> None:
    planned = AssignBuffers({"T": 4}).run(GRAPH).graph
    offsets = {node.name: node.offsets for node in planned.nodes}
    assert offsets["input_view"] == offsets["cache.1"] == (-1,)
    assert offsets["view_of_b"] == offsets["b"]
    assert offsets["unused"] != offsets["wide"]


def test_scratch_is_there_while_its_node_runs() -> None:
    planned = AssignBuffers({"T": 4}).run(GRAPH).graph
    places = {stay.value: (stay.first, stay.last) for stay in stays(planned)}
    assert places["a#1"] == (2, 2)
    assert places["a"] == (2, 6)
    assert "a#0" not in places
    a, zeroed, scratch, last = planned.producers["a"].offsets
    assert len({a, scratch}) == 2
    assert (zeroed, last) == (0, ALIGNMENT)
    assert arena_size(planned).zeroed == 2 * ALIGNMENT


def test_sizes_follow_the_step() -> None:
    small, large = (arena_size(AssignBuffers({"T": t}).run(GRAPH).graph).arena for t in (4, 512))
    assert large == 128 * small
    tensors = [GRAPH.types[value] for node in GRAPH.nodes for value in node.outputs]
    assert large < sum(t.nbytes({"T": 512}) for t in tensors if isinstance(t, TensorType))


def test_a_gap_is_filled_with_what_fits_best() -> None:
    assert _best_fit([], 256) == 0
    assert _best_fit([(512, 1024), (1280, 2048)], 256) == 1024
    assert _best_fit([(512, 1024), (1280, 2048)], 512) == 0
    assert _best_fit([(0, 1024), (0, 256), (1280, 2048)], 512) == 2048


@given(random_module())
def test_random_graphs_are_laid_out_soundly(seed: object) -> None:
    """The verifier finds no overlap, and the arena holds at least what is live at once."""
    lines, widths = list[str](), [64]
    for number in range(random.randint(1, 14)):
        a, b = (random.randrange(len(widths)) for _ in range(2))
        widths.append(widths[a] + widths[b])
        lines.append(f"  %v{number + 1}: f32[T, {widths[-1]}] = concat(%v{a}, %v{b}) ! reference")
    text = "\n".join(lines)
    graph = parse(
        'graph "g" stage(lowered) {\n  in %v0: f32[T, 64]\n'
        f"{text}\n  return %v{random.randint(1, len(lines))}\n}}\n"
    )
    planned = AssignBuffers({"T": random.randint(1, 9)}).run(graph).graph
    verify(planned)
    assert parse(show(planned)) == planned
    size = arena_size(planned)
    assert size.live <= size.arena


def test_a_model_needs_no_more_than_its_widest_moment(
    model_config: Callable[[str], ModelConfig], model_graph: Callable[..., Graph]
) -> None:
    lowered = Lower("cpu").run(model_graph(model_config("tiny"))).graph
    planned = AssignBuffers(ENV).run(lowered).graph
    verify(planned)
    size = arena_size(planned)
    assert size.live <= size.arena <= 1.05 * size.live
