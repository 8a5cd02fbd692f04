"""Choosing tokens, and generation: repeatable, lazy, and it gives its slot back."""

from __future__ import annotations

from itertools import islice

import pytest
import small
import torch

from dsv4c.plan.plan import Plan
from dsv4c.runtime.sampling import Sampling
from dsv4c.runtime.session import Session

PROMPT = [3, 1, 4, 15, 9, 26, 5]


@pytest.fixture
def session(plan: Plan) -> Session:
    return plan.session(max_sequences=1, max_tokens=64)


def draws(logits: list[float], temperature: float, top_p: float, count: int = 400) -> list[int]:
    sampling = Sampling(temperature, top_p, seed=7)
    return [sampling.choose(torch.tensor(logits), position) for position in range(count)]


def test_temperature_zero_takes_the_largest_and_the_first_of_equals() -> None:
    assert set(draws([0.0, 3.0, 3.0, -1.0], 0.0, 1.0)) == {1}


def test_sampling_follows_the_distribution() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log().tolist()
    counts = torch.bincount(torch.tensor(draws(logits, 1.0, 1.0, 4000)), minlength=3) / 4000
    assert counts.tolist() == pytest.approx([0.5, 0.3, 0.2], abs=0.03)
    # half the temperature squares the probabilities
    counts = torch.bincount(torch.tensor(draws(logits, 0.5, 1.0, 4000)), minlength=3) / 4000
    assert counts.tolist() == pytest.approx([25 / 38, 9 / 38, 4 / 38], abs=0.03)


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(1.0, {0, 1, 2}), (0.81, {0, 1, 2}), (0.79, {0, 1}), (0.5, {0}), (1e-9, {0})],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, kept: set[int]) -> None:
    logits = torch.tensor([0.51, 0.29, 0.2]).log().tolist()
    assert set(draws(logits, 1.0, top_p)) == kept


def test_a_tiny_temperature_is_greedy_and_finite() -> None:
    assert set(draws([900.0, 1000.0, 999.0], 1e-300, 1.0, 20)) == {1}


def test_temperature_zero_is_argmax(session: Session) -> None:
    made = list(session.generate(PROMPT, max_new_tokens=12))
    ids = list(PROMPT)
    for token in made:
        slot = session.open()
        assert token == session.prefill(slot, ids)[0].argmax().item()
        session.close(slot)
        ids.append(token)
    assert len(made) == 12


def test_equal_seeds_give_equal_text(session: Session) -> None:
    def text(seed: int | None) -> list[int]:
        return list(session.generate(PROMPT, 20, temperature=1.5, top_p=0.95, seed=seed))

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
