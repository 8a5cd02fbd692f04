"""What a step does beside its kernels, and a plan all of whose nodes are kernels that count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dsv4c.ir.graph import Graph
from dsv4c.ir.text import parse
from dsv4c.ir.values import State
from dsv4c.passes.assign_buffers import AssignBuffers
from dsv4c.runtime import executor as module
from dsv4c.runtime.batch import Sizes
from dsv4c.runtime.executor import Executor

if TYPE_CHECKING:
    import pytest

COPIES = {"aten.copy_.default": 2}
"""The ops of a step that is not a graph: inputs to the device, drawn tokens to the host."""
GRAPH = parse("""\
graph "counted" stage(lowered) {
  in %ids: i32[T]
  in %pos: i32[T]
  in %slot: i32[T]
  in %start: i32[T]
  in %block_table: i32[S, P]
  in %out_rows: i32[R]
  in %temperature: f32[R]
  in %top_k: i32[R]
  in %top_p: f32[R]
  in %seed: i32[R, 2]
  in %next_pos: i32[R]
  in %window: cache<bf16, width=64, rope=0, page=128, ring=640>
  %where: i32[T] = window_slots(%pos, %slot) {ring=640} ! where_kernel scratch(zeroed i32[4], f32[3*T, 8])
  %x: f32[T, 64] = rope_angles(%pos) {dims=64, theta=10000.0, factor=1.0, original=0, beta_fast=32.0, beta_slow=1.0, offset=0} ! x_kernel
  %heads: f32[T, 8, 8] = view(%x) {shape=[8, 8]} ! reference
  %normed: f32[T, 8, 8] = head_norm(%heads) {eps=1e-06} ! normed_kernel scratch(f32[32*P, 2])
  %flat: f32[T, 64] = view(%normed) {shape=[64]} ! reference
  %window.1: cache<bf16, width=64, rope=0, page=128, ring=640> = insert_rows(%window, %flat, %where) ! insert_kernel
  %logits: f32[R, 64] = take_rows(%flat, %out_rows) ! logits_kernel
  %drawn: i32[R] = sample(%logits, %temperature, %top_k, %top_p, %seed, %next_pos) ! sample_kernel
  return %logits, %drawn, %window.1
}
""")


class Ops(TorchDispatchMode):
    """Counts the torch ops that run inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.seen[str(func)] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def references_apart(monkeypatch: pytest.MonkeyPatch, ops: Ops) -> Generator[Counter[str]]:
    """Nodes that run by reference are counted here, and their ops are not counted at all."""
    found: Counter[str] = Counter()
    right = module.run_node

    def run(node: Any, *rest: Any) -> Any:
        before = ops.seen.copy()
        result = right(node, *rest)
        ops.seen = before
        ops.seen["aten.copy_.default"] -= sum(not isinstance(one, State) for one in result)
        found[node.name] += 1
        return result

    with monkeypatch.context() as patch:
        patch.setattr(module, "run_node", run)
        yield found


def counted(
    kernel: Callable[[str, Sequence[torch.Tensor]], None], sequences: int = 4, graph: Graph = GRAPH
) -> Executor:
    """An executor of the graph; `kernel` is called with each kernel's name and arguments."""
    most = Sizes(max(8, sequences), max(8, sequences), sequences, 16)
    planned = AssignBuffers(most.env).run(graph).graph
    cpu = torch.device("cpu")
    states = {
        name: State.allocate(planned.types[name], {"S": sequences, "N": 1}, cpu)  # pyright: ignore
        for name in planned.states
    }

    def named(name: str) -> Callable[..., None]:
        return lambda *arguments: kernel(name, arguments)

    kernels = {node.impl: named(node.impl) for node in planned.nodes if node.impl != "reference"}
    return Executor(planned, {}, states, kernels, cpu)
