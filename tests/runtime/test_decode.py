"""Decode steps: padded to buckets, out of memory that is there before, and with nothing beside kernels."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from dsv4c.ir.lifetimes import arena_size
from dsv4c.plan.plan import Plan
from dsv4c.runtime.batch import TokenBatch
from dsv4c.runtime.decode import Decoder, can_capture
from dsv4c.runtime.memory import session_bytes

sys.path.insert(0, str(Path(__file__).parent))
import traps

CPU = torch.device("cpu")
Tokens = Callable[[int, int], list[int]]


def test_a_step_of_kernels_runs_no_torch_op_but_two_copies() -> None:
    calls: list[str] = []
    executor = traps.counted(lambda name, arguments: calls.append(name))
    assert can_capture(executor)
    decoder = Decoder(executor, CPU)
    table = np.zeros((4, 16), np.int32)
    batch = TokenBatch.of([0, 2, 3], [5, 9, 0], [7, 8, 1])
    decoder.launch(batch, table, 1)
    calls.clear()
    with traps.Ops() as ops:
        decoder.launch(batch, table, 1)
    assert ops.seen == traps.COPIES
    names = ("where", "x", "normed", "insert", "logits", "sample")
    assert calls == [f"{name}_kernel" for name in names]


def test_kernels_are_given_operands_results_and_scratch() -> None:
    """Every result and scratch where the plan has it, sized by the step's bucket."""
    seen: dict[str, Sequence[torch.Tensor]] = {}
    executor = traps.counted(lambda name, arguments: seen.update({name: arguments}))
    decoder = Decoder(executor, CPU)
    table = np.arange(64, dtype=np.int32).reshape(4, 16)
    decoder.launch(TokenBatch.of([0, 2, 3], [5, 9, 0], [7, 8, 1]), table, 9)
    pos, slot, where, zeroed, scratch = seen["where_kernel"]
    assert (pos.tolist(), slot.tolist()) == ([5, 9, 0, 0], [0, 2, 3, -1])
    assert (where.shape, where.dtype) == ((4,), torch.int32)
    assert (zeroed.shape, zeroed.dtype, zeroed.tolist()) == ((4,), torch.int32, [0] * 4)
    assert (scratch.shape, scratch.dtype) == ((12, 8), torch.float32)
    heads, normed, wide = seen["normed_kernel"]
    assert (heads.shape, normed.shape, wide.shape) == ((4, 8, 8), (4, 8, 8), (512, 2))
    assert heads.data_ptr() == seen["x_kernel"][1].data_ptr()
    window, flat, index = seen["insert_kernel"]
    assert window.data_ptr() == executor.states["window"].buffer.data_ptr()
    assert (flat.shape, flat.data_ptr()) == ((4, 64), normed.data_ptr())
    assert index.data_ptr() == where.data_ptr()
    base = executor.arena.data_ptr()
    for name, place in (("where_kernel", (2, 4)), ("x_kernel", (1,)), ("normed_kernel", (1, 2))):
        (node,) = (one for one in executor.graph.nodes if one.impl == name)
        offsets = [offset for i, offset in enumerate(node.offsets) if i != 1 or "where" not in name]
        assert [seen[name][i].data_ptr() - base for i in place] == offsets


def test_zeroed_scratch_is_its_own_region() -> None:
    seen: dict[str, Sequence[torch.Tensor]] = {}
    executor = traps.counted(lambda name, arguments: seen.update({name: arguments}))
    decoder = Decoder(executor, CPU, poison=0x7F)
    for _ in range(2):
        decoder.launch(TokenBatch.of([0], [0], [1]), np.zeros((4, 16), np.int32), 1)
        assert seen["where_kernel"][3].tolist() == [0] * 4
        assert seen["where_kernel"][4].view(torch.uint8).unique().tolist() == [0x7F]


def test_only_reference_nodes_make_tensors(
    plan: Plan, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = plan.session(max_sequences=3, max_tokens=300)
    slots = [session.open() for _ in range(3)]
    for slot in slots:
        session.prefill(slot, tokens(5, slot))
    session.decode(slots, [1, 2, 3])
    batch = TokenBatch.of(slots, [6] * 3, [4] * 3)
    with (
        torch.inference_mode(),
        traps.Ops() as ops,
        traps.references_apart(monkeypatch, ops) as found,
    ):
        session.decoder.launch(batch, session.slots.block_table, 1)
    assert {name: count for name, count in ops.seen.items() if count} == traps.COPIES
    nodes = [node for node in plan.graph.nodes if node.by_reference]
    assert found == {node.name: 1 for node in nodes}
    assert len(nodes) == plan.reference_nodes


@pytest.mark.parametrize("kv_cache", ["f32", "fp8"])
@pytest.mark.parametrize("byte", [0xFF, 0x7F, 0x00])
def test_nothing_depends_on_what_scratch_memory_held(
    plan_for: Callable[[str], Plan], tokens: Tokens, kv_cache: str, byte: int
) -> None:
    plan = plan_for(kv_cache)
    found: list[torch.Tensor] = []
    for session in (plan.session(5, 300), plan.session(5, 300, poison=byte)):
        slots = [session.open() for _ in range(3)]
        logits = [session.prefill(slot, tokens(120 + 9 * slot, slot), "all") for slot in slots]
        logits += [session.decode(slots, [5, 6, 7]) for _ in range(3)]
        found.append(torch.cat(logits))
    assert torch.equal(*found)


@pytest.mark.parametrize("kv_cache", ["f32", "fp8"])
def test_padded_rows_change_no_state(
    plan_for: Callable[[str], Plan], tokens: Tokens, kv_cache: str
) -> None:
    """A step of padded rows alone writes nothing but the null page."""
    session = plan_for(kv_cache).session(4, 300)
    slot = session.open()
    session.prefill(slot, tokens(150, 0))
    before = {name: state.buffer.clone() for name, state in session.executor.states.items()}
    for pages in (1, 3):
        with torch.inference_mode():
            session.decoder.launch(TokenBatch.of([], [], []), session.slots.block_table, pages)
    for name, state in session.executor.states.items():
        assert torch.equal(state.buffer, before[name]), name


def test_memory_is_what_was_planned(plan: Plan) -> None:
    session = plan.session(max_sequences=3, max_tokens=300)
    size = arena_size(session.executor.graph)
    assert session.executor.arena.nbytes == size.arena
    assert session.executor.graph.step == {"T": 512, "R": 512, "S": 3, "P": 3}
    wide = plan.session(max_sequences=600, max_tokens=20)
    assert wide.executor.graph.step == {"T": 600, "R": 600, "S": 600, "P": 1}
    assert wide.executor.arena.nbytes > size.arena


def test_what_is_refused_is_what_would_be_allocated(plan: Plan) -> None:
    session = plan.session(max_sequences=3, max_tokens=300)
    executor = session.executor
    needed = session_bytes(executor.graph, session.slots.pages)
    assert needed["states"] == sum(one.buffer.nbytes for one in executor.states.values())
    assert needed["arena"] == executor.arena.nbytes
    host, device = executor.inputs.copies(executor.most)
    assert needed["inputs"] == host.nbytes == device.nbytes
    weights = sum(part.nbytes for one in plan.weights().values() for part in one.components)
    assert needed["weights"] == weights
