"""What a session refuses, in which words, and that a refused call changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import small
import torch

import dsv4c
from dsv4c.errors import DsvError
from dsv4c.plan.plan import Plan
from dsv4c.runtime.sampling import Sampling
from dsv4c.runtime.session import Session


@pytest.fixture
def session(plan: Plan) -> Session:
    """Room for 2 sequences of 130 tokens; slot 0 holds 128."""
    made = plan.session(max_sequences=2, max_tokens=130)
    made.prefill(made.open(), [3] * 128)
    return made


def everything(session: Session) -> list[object]:
    slots = session.slots
    states = {name: state.buffer.clone() for name, state in session.executor.states.items()}
    return [dict(slots.lengths), slots.block_table.copy(), states]


def unchanged(before: list[object], after: list[object]) -> bool:
    (lengths, table, states), (lengths_now, table_now, states_now) = before, after
    assert isinstance(states, dict)
    assert isinstance(states_now, dict)
    assert isinstance(table, np.ndarray)
    assert isinstance(table_now, np.ndarray)
    same = all(torch.equal(states[name], states_now[name]) for name in states)
    return same and lengths == lengths_now and np.array_equal(table, table_now)


Call = Callable[[Session], object]
REFUSED: dict[str, tuple[Call, str, dict[str, str]]] = {
    "prefill: id too large": (
        lambda s: s.prefill(0, [1, small.VOCAB]),
        "DSV241",
        {"where": "position 1", "expected": "0 to 95", "found": "96"},
    ),
    "prefill: id below 0": (
        lambda s: s.prefill(0, [-1]),
        "DSV241",
        {"where": "position 0", "expected": "0 to 95", "found": "-1"},
    ),
    "prefill: id is no integer": (
        lambda s: s.prefill(0, [5, 1.5]),  # pyright: ignore[reportArgumentType]
        "DSV241",
        {"where": "position 1", "expected": "0 to 95", "found": "1.5"},
    ),
    "prefill: no ids": (lambda s: s.prefill(0, []), "DSV241", {"found": "none"}),
    "prefill: too long": (
        lambda s: s.prefill(0, [1, 2, 3]),
        "DSV242",
        {"where": "slot 0", "expected": "at most 130 tokens", "found": "128 + 3 = 131"},
    ),
    "prefill: slot not open": (
        lambda s: s.prefill(1, [1]),
        "DSV243",
        {"expected": "one of [0]", "found": "1"},
    ),
    "prefill: return_logits": (
        lambda s: s.prefill(0, [1], return_logits="some"),  # pyright: ignore[reportArgumentType]
        "DSV101",
        {"expected": "'last' or 'all'", "found": "'some'"},
    ),
    "decode: slot twice": (
        lambda s: s.decode([0, 0], [1, 2]),
        "DSV101",
        {"expected": "2 tokens and no slot twice", "found": "slots [0, 0], 2 tokens"},
    ),
    "decode: more tokens than slots": (
        lambda s: s.decode([0], [1, 2]),
        "DSV101",
        {"found": "slots [0], 2 tokens"},
    ),
    "decode: nothing": (lambda s: s.decode([], []), "DSV241", {"found": "none"}),
    "decode: one of two slots not open": (
        lambda s: s.decode([0, 1], [1, 2]),
        "DSV243",
        {"found": "1"},
    ),
    "decode: bad id": (lambda s: s.decode([0], [99]), "DSV241", {"found": "99"}),
    "decode: id below 0": (lambda s: s.decode([0], [-1]), "DSV241", {"found": "-1"}),
    "decode: id beyond 32 bits": (
        lambda s: s.decode([0], [1 << 32]),
        "DSV241",
        {"found": "4294967296"},
    ),
    "decode: id is no integer": (
        lambda s: s.decode([0], [1.5]),  # pyright: ignore[reportArgumentType]
        "DSV241",
        {"found": "1.5"},
    ),
    "close: slot not open": (lambda s: s.close(1), "DSV243", {"found": "1"}),
    "length: slot not open": (lambda s: s.length(7), "DSV243", {"found": "7"}),
    "generate: temperature": (
        lambda s: s.generate([1], temperature=-0.5),
        "DSV101",
        {"expected": "0 or more", "found": "-0.5"},
    ),
    "generate: temperature is not a number": (
        lambda s: s.generate([1], temperature=float("nan")),
        "DSV101",
        {"found": "nan"},
    ),
    "generate: top_p": (
        lambda s: s.generate([1], top_p=0.0),
        "DSV101",
        {"expected": "above 0, at most 1", "found": "0.0"},
    ),
    "generate: top_k": (
        lambda s: s.generate([1], top_k=-1),
        "DSV101",
        {"expected": "0 or more", "found": "-1"},
    ),
    "generate: seed": (lambda s: s.generate([1], seed=-1), "DSV101", {"found": "-1"}),
    "generate: max_new_tokens": (
        lambda s: s.generate([1], max_new_tokens=-1),
        "DSV101",
        {"expected": "0 or more", "found": "-1"},
    ),
    "generate: no prompt": (lambda s: s.generate([]), "DSV241", {"found": "none"}),
    "generate: bad id": (lambda s: s.generate([500]), "DSV241", {"found": "500"}),
    "generate: too long": (
        lambda s: s.generate([1] * 100, max_new_tokens=31),
        "DSV242",
        {"expected": "at most 130 tokens", "found": "100 + 31 = 131"},
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_calls_say_why_and_change_nothing(session: Session, name: str) -> None:
    call, code, fields = REFUSED[name]
    before = everything(session)
    with pytest.raises(DsvError) as caught:
        call(session)
    assert caught.value.code == code
    for field, text in fields.items():
        assert getattr(caught.value, field) == text, field
    assert str(caught.value).startswith(f"{code}: {caught.value.what}\n")
    assert unchanged(before, everything(session))
    # and the session goes on
    assert session.decode([0], [5]).shape == (1, small.VOCAB)


def test_a_full_slot_table(session: Session) -> None:
    assert session.open() == 1
    before = everything(session)
    for call in (session.open, lambda: next(session.generate([1]))):
        with pytest.raises(DsvError, match="every slot of the session is in use") as caught:
            call()
        assert (caught.value.code, caught.value.found) == ("DSV243", "2 of 2 open")
        assert "max_sequences" in caught.value.hint
    assert unchanged(before, everything(session))
    session.close(0)
    assert session.open() == 0
    assert session.length(0) == 0


def test_one_full_sequence_refuses_the_whole_batch(session: Session) -> None:
    session.prefill(0, [1, 2])
    other = session.open()
    session.prefill(other, [4])
    before = everything(session)
    with pytest.raises(DsvError, match="DSV242") as caught:
        session.decode([other, 0], [1, 1])
    assert caught.value.found == "130 + 1 = 131"
    assert unchanged(before, everything(session))


def test_a_closed_slot_is_refused(session: Session) -> None:
    session.close(0)
    for call in (lambda: session.prefill(0, [1]), lambda: session.decode([0], [1])):
        with pytest.raises(DsvError, match="the slot is not open"):
            call()
    with pytest.raises(DsvError, match="the slot is not open"):
        session.close(0)


@pytest.mark.parametrize(
    ("limits", "code", "found"),
    [
        ((0, 128), "DSV101", "0"),
        ((1, 0), "DSV101", "0"),
        ((1, 4097), "DSV242", "4097"),
    ],
)
def test_limits_of_a_session(plan: Plan, limits: tuple[int, int], code: str, found: str) -> None:
    with pytest.raises(DsvError) as caught:
        plan.session(max_sequences=limits[0], max_tokens=limits[1])
    assert (caught.value.code, caught.value.found) == (code, found)


def test_a_session_that_does_not_fit_the_memory(plan: Plan) -> None:
    with pytest.raises(DsvError, match="does not fit the memory") as caught:
        plan.session(max_sequences=10**9, max_tokens=4096)
    assert caught.value.code == "DSV602"
    assert caught.value.exit_code == 7
    assert "states" in caught.value.found
    assert caught.value.hint == "lower max_sequences or max_tokens"


@pytest.mark.parametrize(
    ("option", "value", "code", "expected"),
    [
        ("target", "sm_80", "DSV302", "cpu or sm_90a or sm_100a"),
        ("kv_cache", "int8", "DSV101", "fp8 or bf16 or f32"),
        ("dtype", "float16", "DSV101", "bfloat16 or float32"),
    ],
)
def test_compile_refuses_unknown_options(
    model: Path, tmp_path: Path, option: str, value: str, code: str, expected: str
) -> None:
    with pytest.raises(DsvError, match=f"unknown {option}") as caught:
        dsv4c.compile(model, tmp_path / "plan", **cast("Any", {option: value}))
    assert caught.value.code == code
    assert caught.value.expected == expected
    assert caught.value.found == repr(value)
    assert not any(tmp_path.iterdir())


def test_a_slot_that_is_opened_anew_draws_in_its_new_way(
    plan: Plan, tokens: Callable[[int, int], list[int]]
) -> None:
    """Though the sequences of a step are those of the step before."""
    ways = Sampling(temperature=2.0, seed=5), Sampling(), Sampling(temperature=2.0, seed=6)
    kept, drawn = plan.session(max_sequences=1, max_tokens=64), list[list[int]]()
    for way in ways:
        for session in (kept, plan.session(max_sequences=1, max_tokens=64)):
            slot = session.open(way)
            token, made = session.start(slot, tokens(9, 0)), list[int]()
            for _ in range(12):
                [token] = session.advance([slot], [token])
                made.append(token)
            drawn.append(made)
            session.close(slot)
    assert drawn[0::2] == drawn[1::2]
    assert drawn[0] != drawn[2]
    assert drawn[0] != drawn[4]
