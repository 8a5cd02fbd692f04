"""Medians, quartiles, and how many input sets rotate."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import dsv4c.bench.timing as module
from dsv4c.bench.results import Time
from dsv4c.bench.steps import input_sets
from dsv4c.bench.timing import ROTATED, looped, set_count, spread


def test_median_and_quartiles() -> None:
    assert spread([4.0, 1.0, 2.0, 5.0, 3.0]) == Time(3.0, 2.0, 4.0)


def test_sets_do_not_fit_the_l2() -> None:
    assert set_count(ROTATED) == 2
    assert set_count(30e6) == 8
    assert set_count(0) == 64


def test_copies_of_arguments() -> None:
    """As many as move 220 MB in a round, of own memory, with equal values."""
    given = [torch.arange(6), torch.ones(2, 3)]
    assert [len(input_sets(given, moved, 1)) for moved in (220e6, 30e6, 1.0)] == [1, 8, 64]
    assert [len(input_sets(given, 30e6, nodes)) for nodes in (2, 8)] == [4, 1]
    first, second, *_ = input_sets(given, 30e6, 1)
    assert first[0] is given[0]
    assert torch.equal(second[0], given[0])
    assert second[0].data_ptr() != given[0].data_ptr()
    large = [torch.empty(1 << 30, dtype=torch.uint8, device="meta")]
    assert len(input_sets(large, 1e6, 1)) == 3


@pytest.mark.parametrize(("each", "calls"), [(1e-3, 3), (1e-4, 30), (1e-9, 402)])
def test_a_loop_takes_3_ms_and_all_calls_equally_often(
    each: float, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    loops: list[Callable[[], object]] = []
    monkeypatch.setattr(module, "seconds", lambda call: each)
    monkeypatch.setattr(module, "captured", loops.append)
    _, count = looped([partial(seen.append, name) for name in "abc"])
    assert count == calls
    seen.clear()
    loops[0]()
    assert "".join(seen) == "abc" * (count // 3)


def test_two_loops_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clocks that fall make both slower: each turn takes a hundredth more."""
    turns: list[str] = []
    times = {"a": 3e-3, "b": 6e-3}

    def loop(name: str, count: int) -> Any:
        return SimpleNamespace(replay=partial(turns.append, name), count=count)

    def seconds(replay: Callable[[], object]) -> float:
        replay()
        return times[turns[-1]] * (1 + len(turns) / 100)

    monkeypatch.setattr(module, "seconds", seconds)
    one, other = module.time_beside(loop("a", 30), loop("b", 20))
    assert "".join(turns) == "ab" + "ab" * module.REPLAYS
    assert other.us / one.us == pytest.approx(3.0, rel=0.02)
