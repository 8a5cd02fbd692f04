"""What a step must not depend on: other rows, padding, what memory held, other allocations.

Each check takes a plan of any target; on a GPU the steps are the captured graphs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from sessions import LENGTHS, filled, same, states, steps, tokens

from dsv4c.ir.ops.sample import sample_row
from dsv4c.ir.types import RowsType
from dsv4c.ir.values import State
from dsv4c.plan.plan import Plan
from dsv4c.runtime.batch import Rows
from dsv4c.runtime.executor import Executor
from dsv4c.runtime.guard import guard_step
from dsv4c.runtime.sampling import GREEDY, Sampling
from dsv4c.runtime.session import Session

BYTES = (0xFF, 0x7F, 0x00)
"""0xFF is NaN in every format of a state, 0x7F a NaN or a huge number."""
MIXED = (
    GREEDY,
    Sampling(1.3, seed=1),
    Sampling(0.9, top_k=5, seed=1),
    Sampling(2.0, top_k=40, top_p=0.9, seed=(1 << 64) - 5),
    Sampling(1.5, top_p=0.7, seed=9),
)


def parts(session: Session, state: State, slots: set[int]) -> Iterator[torch.Tensor]:
    """The memory of these slots' sequences in a state: partial rows, a ring, or pages, as bytes."""
    table = session.slots.block_table
    for slot in sorted(slots):
        if isinstance(state.type, RowsType):
            yield state.buffer[slot].view(torch.uint8)
        elif state.type.ring:
            pages = state.type.ring // state.type.layout.page
            yield state.buffer[slot * pages : (slot + 1) * pages].view(torch.uint8)
        else:
            yield from (state.buffer[page].view(torch.uint8) for page in table[slot] if page)


def unused(session: Session) -> list[torch.Tensor]:
    """The memory of states that belongs to no sequence, but the null page, as bytes."""
    open_slots = set(session.slots.lengths)
    held = {int(page) for slot in open_slots for page in session.slots.block_table[slot]}
    found: list[torch.Tensor] = []
    for state in session.executor.states.values():
        if isinstance(state.type, RowsType) or state.type.ring:
            found += parts(session, state, {*range(session.slots.max_sequences)} - open_slots)
        else:
            pages = (page for page in range(1, len(state.buffer)) if page not in held)
            found += (state.buffer[page].view(torch.uint8) for page in pages)
    return found


def poison(session: Session, byte: int) -> None:
    """Fill everything that holds nothing: the arena, null pages, pages and slots of no sequence."""
    session.executor.poison(byte)
    for one in unused(session):
        one.fill_(byte)


def zeroed(executor: Executor) -> torch.Tensor:
    return executor._zeroed  # pyright: ignore[reportPrivateUsage]


def padded_rows_change_nothing(plan: Plan) -> dict[str, Any]:
    """Steps of each number of rows, padded to their bucket or not."""
    for rows in range(1, 8):
        lengths = (*LENGTHS, 128, 9)[:rows]
        padded, exact = filled(plan, lengths), filled(plan, lengths)
        for i in range(3):
            made = padded.decode([*range(rows)], [7 * i + slot for slot in range(rows)])
            batch = [Rows(s, exact.length(s), [7 * i + s], 1) for s in range(rows)]
            wanted = exact.step(batch)
            assert same(made, wanted), (rows, i, float((made - wanted).abs().max()))
        for name, state in states(padded).items():
            assert same(state, states(exact)[name]), (rows, name)
    return {"rows": [*range(1, 8)]}


def plant_nan(session: Session, slot: int, layer: int | None = None) -> None:
    """NaN in all that a sequence has in its states, of one layer or of all."""
    for name, state in session.executor.states.items():
        if layer is None or name.startswith(f"L{layer}."):
            for one in parts(session, state, {slot}):
                one.fill_(0xFF)


def nan_rows_change_no_other(plan: Plan) -> dict[str, Any]:
    """One sequence of NaN, in decode steps and in a step of ragged rows."""
    others = [slot for slot in range(len(LENGTHS)) if slot != 2]
    right, wrong = filled(plan, LENGTHS), filled(plan, LENGTHS)
    for session in (right, wrong):
        session.prefill(session.open(), tokens(plan, 5, 77))  # ends a batch of six
    plant_nan(wrong, 2)
    wanted, found = steps(right), steps(wrong)
    assert bool(wanted.isfinite().all())
    assert not bool(found[:, 2].isfinite().any())
    kept = [*others, len(LENGTHS)]
    assert same(found[:, kept], wanted[:, kept])
    ragged = [(0, 9), (2, 70), (1, 1), (3, 140)]
    logits: list[torch.Tensor] = []
    for session in (right, wrong):
        batch = [Rows(s, session.length(s), tokens(plan, n, s), min(n, 3)) for s, n in ragged]
        logits.append(session.step(batch))
    rows = [0, 1, 2, 6, 7, 8, 9]
    assert same(logits[0][rows], logits[1][rows])
    assert not bool(logits[1][3:6].isfinite().any())
    for name in right.executor.states:
        pairs = (parts(one, one.executor.states[name], {*kept}) for one in (right, wrong))
        assert all(same(a, b) for a, b in zip(*pairs, strict=True)), name
    return {}


def nan_guard_names_the_sequence(plan: Plan) -> dict[str, Any]:
    """In a batch, whose state of one layer holds NaN for one sequence."""
    named: dict[str, Any] = {}
    for layer in range(plan.manifest.model.layers):
        session = filled(plan, LENGTHS)
        batch = [Rows(s, session.length(s), [s], 1) for s in session.slots.lengths]
        plant_nan(session, 3, layer)
        found = guard_step(session, batch)
        assert found is not None
        assert found.captured.node.origin.layer == layer
        assert found.slot == 3
        named[f"L{layer}"] = found.output
    session = filled(plan, LENGTHS)
    batch = [Rows(s, session.length(s), [s], 1) for s in session.slots.lengths]
    assert guard_step(session, batch) is None
    return named


def memory_of_nobody_is_not_read(plan: Plan) -> dict[str, Any]:
    """Scratch, null pages, free pages and slots are poisoned after capture, before every step."""
    wanted, session = steps(filled(plan, LENGTHS)), plan.session(max_sequences=1, max_tokens=9)
    for byte in BYTES:
        session = filled(plan, LENGTHS)
        made: list[torch.Tensor] = []
        for i in range(len(wanted)):
            poison(session, byte)
            made.append(session.decode([*range(5)], [7 * i + slot for slot in range(5)]))
            assert all(bool((one == byte).all()) for one in unused(session)), "written"
            assert not bool(zeroed(session.executor).any())
        assert same(torch.stack(made), wanted), hex(byte)
    return {"captured": len(session.decoder.captured)}


def used_memory_is_as_good_as_new(plan: Plan) -> dict[str, Any]:
    """A sequence in slots and pages that others had, poisoned between, beside one still there."""
    ids = tokens(plan, 300, 50)

    def run(session: Session) -> torch.Tensor:
        slot = session.open()
        found = [session.prefill(slot, ids[:129]), session.prefill(slot, ids[129:])]
        found += [session.decode([slot], [i]) for i in range(5)]
        session.close(slot)
        return torch.cat(found)

    cold = run(plan.session(max_sequences=8, max_tokens=2048))
    for byte in BYTES:
        session = filled(plan, LENGTHS)
        for turn in range(2):
            steps(session, 2)
            slots = sorted(session.slots.lengths)
            random.Random(turn).shuffle(slots)
            for slot in slots[1:]:
                session.close(slot)
            poison(session, byte)
            assert same(run(session), cold), (hex(byte), turn)
            while len(session.slots.lengths) < 4:
                session.prefill(session.open(), tokens(plan, 170, turn))
    return {}


def pointers(session: Session) -> dict[str, tuple[int, int]]:
    """Begin and end of everything that a session's steps read or write."""
    executor, found = session.executor, dict[str, torch.Tensor]()
    host, device = executor.inputs.copies(executor.most)
    found |= {"arena": executor.arena, "zeroed": zeroed(executor), "host": host, "device": device}
    found |= {"ids": session.decoder._ids}  # pyright: ignore[reportPrivateUsage]
    found |= {name: state.buffer for name, state in executor.states.items()}
    for node in executor.graph.nodes:
        for i, (_, components) in enumerate(session.plan.packed(node)):
            found |= {f"{node.name} {i} {j}": one for j, one in enumerate(components)}
    return {name: (one.data_ptr(), one.data_ptr() + one.nbytes) for name, one in found.items()}


def other_allocations_change_nothing(plan: Plan) -> dict[str, Any]:
    """Tensors come and go between steps, full of NaN; the session's memory stays where it was."""
    wanted, session, draw = (
        steps(filled(plan, LENGTHS), 12),
        filled(plan, LENGTHS),
        random.Random(0),
    )
    before, live, made = pointers(session), list[torch.Tensor](), list[torch.Tensor]()
    on_gpu = session.device.type == "cuda"
    for i in range(len(wanted)):
        for _ in range(40):
            size = 1 << draw.randrange(4, 24)
            live.append(torch.full((size,), 0xFF, dtype=torch.uint8, device=session.device))
            if on_gpu and size < 1 << 16:
                live.append(torch.full((size,), 0xFF, dtype=torch.uint8).pin_memory())
            if draw.random() < 0.9:
                live.pop(draw.randrange(len(live)))
        for one in live:
            begin, end = one.data_ptr(), one.data_ptr() + one.nbytes
            assert all(end <= a or b <= begin for a, b in before.values())
        if on_gpu and i % 3 == 2:
            live.clear()
            torch.cuda.empty_cache()
        made.append(session.decode([*range(5)], [7 * i + slot for slot in range(5)]))
    assert same(torch.stack(made), wanted)
    assert pointers(session) == before
    return {"pointers": len(before)}


def drawn(plan: Plan, count: int = 24) -> Iterator[tuple[Session, int, list[int]]]:
    """Each sequence of a batch with sampling of its own, after each step: session, slot, tokens."""
    session = plan.session(max_sequences=8, max_tokens=2048)
    slots = [session.open(one) for one in MIXED]
    made = [[session.start(slot, ids)] for slot, ids in zip(slots, _prompts(plan), strict=True)]
    for _ in range(count):
        tokens = session.advance(slots, [one[-1] for one in made])
        for slot in slots:
            made[slot].append(tokens[slot])
            yield session, slot, made[slot]


def _prompts(plan: Plan) -> list[list[int]]:
    return [tokens(plan, length, seed) for seed, length in enumerate(LENGTHS)]


def drawn_tokens_follow_the_rules(plan: Plan) -> dict[str, Any]:
    """What a step draws is what the rules draw from its logits, for each sequence of a batch."""
    count = 0
    for session, slot, made in drawn(plan):
        logits, one = session.decoder.logits(len(MIXED))[slot], MIXED[slot]
        given = one.temperature, one.top_k, one.top_p, list(one.words)
        assert made[-1] == sample_row(logits, *given, session.length(slot))
        count += 1
    return {"tokens": count}


def drawn_alone_is_drawn_in_a_batch(plan: Plan) -> dict[str, Any]:
    together = {slot: made for _, slot, made in drawn(plan)}
    for slot, (sampling, ids) in enumerate(zip(MIXED, _prompts(plan), strict=True)):
        alone = plan.session(max_sequences=1, max_tokens=2048)
        own = alone.open(sampling)
        text = [alone.start(own, ids)]
        while len(text) < len(together[slot]):
            text += alone.advance([own], text[-1:])
        assert text == together[slot], slot
    return {"texts": len(together)}


ANYWHERE: tuple[Callable[[Plan], dict[str, Any]], ...] = (
    nan_rows_change_no_other,
    nan_guard_names_the_sequence,
    memory_of_nobody_is_not_read,
    used_memory_is_as_good_as_new,
    other_allocations_change_nothing,
    drawn_tokens_follow_the_rules,
)
CHECKS = (*ANYWHERE, padded_rows_change_nothing, drawn_alone_is_drawn_in_a_batch)
"""Kernels round a row alike in every batch; matrix products of torch do not."""
