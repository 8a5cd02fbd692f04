"""The same tokens given in other ways have the same logits, whatever else is in the session."""

from __future__ import annotations

from collections.abc import Callable

import drive
import pytest
import torch

from dsv4c.errors import DsvError
from dsv4c.plan.plan import Plan
from dsv4c.runtime.batch import Rows
from dsv4c.runtime.session import Session

Tokens = Callable[[int, int], list[int]]
BOUND = 2e-4


def assert_close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max().item() <= BOUND


def prefill(session: Session, ids: list[int]) -> torch.Tensor:
    return session.prefill(session.open(), ids, return_logits="all")


@pytest.mark.parametrize("count", [1, 3, 4, 5, 127, 128, 129, 131, 132, 260])
def test_chunks_equal_one_step(plan: Plan, tokens: Tokens, count: int) -> None:
    ids = tokens(count, count)
    whole = drive.in_parts(plan, ids, [count])
    for seed in range(3):
        assert_close(drive.in_parts(plan, ids, drive.random_parts(count, seed)), whole)


def test_decode_equals_prefill_over_every_edge(plan: Plan, tokens: Tokens) -> None:
    ids = tokens(263, 1)
    whole = drive.in_parts(plan, ids, [263])
    assert_close(drive.one_by_one(plan, ids[:11]), whole[:11])
    for prompt in (125, 253):
        assert_close(drive.one_by_one(plan, ids[: prompt + 10], prompt), whole[: prompt + 10])


def test_more_than_one_chunk_equals_small_parts(plan: Plan, tokens: Tokens) -> None:
    chunk = plan.manifest.options.chunk
    count = chunk + 131
    ids = tokens(count, 2)
    whole = drive.in_parts(plan, ids, [count])
    assert_close(drive.in_parts(plan, ids, [100] * (count // 100) + [count % 100]), whole)
    # A whole chunk overwrites the ring of a full window; what its first tokens see must be left.
    assert_close(drive.in_parts(plan, ids, [count - chunk, chunk]), whole)


def test_batch_of_five_equals_each_alone(plan: Plan, tokens: Tokens) -> None:
    sequences = [tokens(count, count) for count in (5, 133, 1, 70, 261)]
    prompts = [3, 127, 1, 64, 250]
    for ids, got in zip(sequences, drive.in_batch(plan, sequences, prompts), strict=True):
        assert_close(got, drive.in_parts(plan, ids, [len(ids)]))


def test_ragged_step_in_the_middle_of_sequences(plan: Plan, tokens: Tokens) -> None:
    """A new prompt, a decode row and a prompt that goes on in one step, in any order of slots."""
    first, second, third = tokens(200, 1), tokens(140, 2), tokens(9, 3)
    session = plan.session(max_sequences=3, max_tokens=200)
    a, b, c = (session.open() for _ in range(3))
    session.prefill(a, first[:126])
    session.prefill(b, second[:139])
    batch = [Rows(c, 0, third, 9), Rows(b, 139, second[139:], 1), Rows(a, 126, first[126:], 74)]
    got = session.step(batch).split([9, 1, 74])
    wanted = [drive.in_parts(plan, ids, [len(ids)]) for ids in (third, second, first)]
    assert_close(got[0], wanted[0])
    assert_close(got[1], wanted[1][139:])
    assert_close(got[2], wanted[2][126:])
    assert [session.length(slot) for slot in (a, b, c)] == [200, 140, 9]


def test_a_step_of_more_rows_than_a_chunk(plan: Plan, tokens: Tokens) -> None:
    sequences = [tokens(400, seed) for seed in range(2)]
    session = plan.session(max_sequences=2, max_tokens=500, max_rows=800)
    assert session.executor.graph.step == {"T": 800, "R": 512, "S": 2, "P": 4}
    batch = [Rows(session.open(), 0, ids, 200) for ids in sequences]
    for ids, got in zip(sequences, session.step(batch).split(200), strict=True):
        assert_close(got, drive.in_parts(plan, ids, [400])[200:])
    for batch in (
        [Rows(0, 400, [1] * 801, 1)],
        [Rows(slot, 400, [1] * 300, 300) for slot in (0, 1)],
    ):
        with pytest.raises(DsvError, match="DSV101") as caught:
            session.step(batch)
        assert caught.value.expected == "at most 800, logits of at most 512"
    assert [session.length(slot) for slot in (0, 1)] == [400, 400]


@pytest.mark.parametrize("kv_cache", ["f32", "bf16", "fp8"])
def test_a_used_slot_is_as_good_as_new(
    plan_for: Callable[[str], Plan], tokens: Tokens, kv_cache: str
) -> None:
    plan = plan_for(kv_cache)
    used = plan.session(max_sequences=2, max_tokens=700)
    slots = [used.open(), used.open()]
    for seed, slot in enumerate(slots):
        used.prefill(slot, tokens(690 - 3 * seed, seed))
    used.close(slots[1])
    used.close(slots[0])
    fresh = plan.session(max_sequences=2, max_tokens=700)
    ids = tokens(150, 9)
    for _ in range(2):
        assert torch.equal(prefill(used, ids), prefill(fresh, ids))
    steps = [session.decode([0, 1], [5, 6]) for session in (used, fresh)]
    assert torch.equal(steps[0], steps[1])


def test_what_other_sequences_left_is_never_read(plan: Plan, tokens: Tokens) -> None:
    """NaN in every state before the slot is opened changes nothing."""
    ids = tokens(130, 4)
    clean, poisoned = (plan.session(max_sequences=3, max_tokens=256) for _ in range(2))
    for state in poisoned.executor.states.values():
        state.buffer.fill_(torch.nan)
    assert torch.equal(prefill(poisoned, ids), prefill(clean, ids))
    assert torch.equal(poisoned.decode([0], [7]), clean.decode([0], [7]))


def test_two_sessions_of_a_plan_do_not_meet(plan: Plan, tokens: Tokens) -> None:
    one, two, alone = (plan.session(max_sequences=1, max_tokens=64) for _ in range(3))
    ids, other = tokens(40, 1), tokens(40, 2)
    for session in (one, two, alone):
        session.open()
    for begin in range(0, 40, 8):
        got = one.prefill(0, ids[begin : begin + 8])
        two.prefill(0, other[begin : begin + 8])
        assert torch.equal(got, alone.prefill(0, ids[begin : begin + 8]))


def test_identical_sequences_have_identical_logits(plan: Plan, tokens: Tokens) -> None:
    ids = tokens(135, 3)
    session = plan.session(max_sequences=5, max_tokens=160)
    slots = [session.open() for _ in range(5)]
    alone = [session.prefill(slot, ids, return_logits="all") for slot in slots]
    assert all(torch.equal(logits, alone[0]) for logits in alone)
    for token in tokens(6, 4):
        rows = session.decode(slots, [token] * 5)
        assert all(torch.equal(row, rows[0]) for row in rows)


@pytest.mark.parametrize("limit", [128, 129, 255])
def test_context_of_exactly_max_tokens(plan: Plan, tokens: Tokens, limit: int) -> None:
    """Also where that is no whole number of pages."""
    ids = tokens(limit, limit)
    session = plan.session(max_sequences=2, max_tokens=limit)
    session.prefill(session.open(), ids)
    slot = session.open()
    session.prefill(slot, ids[:-1])
    last = session.decode([slot], ids[-1:])
    assert session.length(slot) == limit
    assert_close(last, drive.in_parts(plan, ids, [limit])[-1:])


def test_prefill_returns_the_last_or_all_logits(plan: Plan, tokens: Tokens) -> None:
    ids = tokens(600, 5)
    session = plan.session(max_sequences=2, max_tokens=600)
    last = session.prefill(session.open(), ids)
    every = session.prefill(session.open(), ids, return_logits="all")
    assert last.dtype == every.dtype == torch.float32
    assert (last.shape, every.shape) == ((1, session.vocab_size), (600, session.vocab_size))
    assert_close(last, every[-1:])
