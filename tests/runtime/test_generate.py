"""Drawing tokens, and generation: repeatable, lazy, and it gives its slot back."""

from __future__ import annotations

from itertools import islice

import pytest
import small
import torch

from dsv4c.ir.ops.sample import sample_row
from dsv4c.plan.plan import Plan
from dsv4c.runtime.sampling import GREEDY, Sampling
from dsv4c.runtime.session import Session

PROMPT = [3, 1, 4, 15, 9, 26, 5]
MIXED = (
    GREEDY,
    Sampling(1.3, seed=1),
    Sampling(1.3, seed=2),
    Sampling(2.0, top_k=20, top_p=0.9, seed=(1 << 64) - 5),
    Sampling(0.9, top_k=3, seed=1),
    Sampling(3.0, top_p=0.6, seed=9),
)


@pytest.fixture
def session(plan: Plan) -> Session:
    return plan.session(max_sequences=1, max_tokens=64)


def drawn_apart(logits: torch.Tensor, sampling: Sampling, position: int) -> int:
    """What the rules give for f32 logits [vocab]."""
    given = sampling.temperature, sampling.top_k, sampling.top_p, list(sampling.words)
    return sample_row(logits, *given, position)


def text_of(session: Session, sampling: Sampling, count: int) -> list[int]:
    slot = session.open(sampling)
    made = [session.start(slot, PROMPT)]
    while len(made) < count:
        made += session.advance([slot], made[-1:])
    session.close(slot)
    return made


def test_a_step_draws_by_the_rules_from_its_logits(plan: Plan) -> None:
    session = plan.session(max_sequences=2, max_tokens=64)
    drawing, watching = session.open(MIXED[3]), session.open()
    token = session.start(drawing, PROMPT)
    logits = session.prefill(watching, PROMPT)
    for position in range(len(PROMPT), len(PROMPT) + 12):
        assert token == drawn_apart(logits[0], MIXED[3], position)
        logits = session.decode([watching], [token])
        [token] = session.advance([drawing], [token])


def test_a_sequence_draws_the_same_alone_and_in_any_batch(plan: Plan) -> None:
    alone = [text_of(plan.session(1, 64), one, 10) for one in MIXED]
    assert len({*map(tuple, alone)}) == len(MIXED)
    session = plan.session(max_sequences=len(MIXED) + 2, max_tokens=64)
    slots = [session.open(one) for one in MIXED]
    made = [[session.start(slot, PROMPT)] for slot in slots]
    for turn in range(1, 10):
        order = range(len(slots)) if turn % 2 else reversed(range(len(slots)))
        picked = list(order)
        tokens = session.advance([slots[i] for i in picked], [made[i][-1] for i in picked])
        for i, token in zip(picked, tokens, strict=True):
            made[i].append(token)
    assert made == alone


def test_a_slot_draws_as_its_last_sequence_was_opened(session: Session) -> None:
    greedy = text_of(session, GREEDY, 10)
    assert text_of(session, MIXED[2], 10) != greedy
    assert text_of(session, GREEDY, 10) == greedy


def test_words_of_a_seed() -> None:
    assert Sampling(seed=(5 << 32) + 7).words == (7, 5)
    assert Sampling(seed=(1 << 64) - 1).words == (-1, -1)


def test_temperature_zero_is_argmax(session: Session) -> None:
    made = list(session.generate(PROMPT, max_new_tokens=12))
    ids = list(PROMPT)
    for token in made:
        slot = session.open()
        assert token == session.prefill(slot, ids)[0].argmax().item()
        session.close(slot)
        ids.append(token)
    assert len(made) == 12


def test_one_most_likely_token_is_greedy(session: Session) -> None:
    greedy = list(session.generate(PROMPT, 8))
    assert list(session.generate(PROMPT, 8, temperature=5.0, top_k=1, seed=3)) == greedy
    assert list(session.generate(PROMPT, 8, temperature=1e-300, seed=3)) == greedy


def test_equal_seeds_give_equal_text(session: Session) -> None:
    def text(seed: int | None) -> list[int]:
        return list(session.generate(PROMPT, 20, 1.5, top_p=0.95, seed=seed, top_k=50))

    assert text(1) == text(1)
    assert text(1) != text(2)
    assert text(None) != text(None)


def test_an_end_token_ends_the_text_and_is_not_yielded(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = list(session.generate(PROMPT, max_new_tokens=12))
    assert small.EOS not in whole
    end = whole[5]
    monkeypatch.setattr(session, "eos_token_ids", [95, end])
    assert list(session.generate(PROMPT, max_new_tokens=12)) == whole[: whole.index(end)]
    assert not session.slots.lengths


def test_tokens_come_one_at_a_time_and_close_frees_the_slot(session: Session) -> None:
    whole = list(session.generate(PROMPT, max_new_tokens=3))
    stream = session.generate(PROMPT, max_new_tokens=9)
    assert not session.slots.lengths  # nothing has run yet
    assert next(stream) == whole[0]
    assert session.slots.lengths == {0: len(PROMPT)}  # the token is out before it is fed
    assert list(islice(stream, 2)) == whole[1:]
    stream.close()
    assert not session.slots.lengths
    assert list(session.generate(PROMPT, max_new_tokens=3)) == whole


def test_the_text_fills_the_context_exactly(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "eos_token_ids", [])
    made = list(session.generate(PROMPT, max_new_tokens=64 - len(PROMPT)))
    assert len(made) == 64 - len(PROMPT)
    assert list(session.generate(PROMPT, max_new_tokens=0)) == []
    assert not session.slots.lengths
