"""Work in processes that die or hang."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def work(items: Sequence[str], answers: Connection) -> None:
    for item in items:
        if item == "dies":
            os._exit(3)
        if item == "hangs":
            time.sleep(60)
        began = time.monotonic()
        time.sleep(0.5 if item == "slow" else 0)
        answers.send({"item": item, "began": began, "ended": time.monotonic()})
    answers.close()


@pytest.fixture
def side_by_side(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("children").side_by_side


def test_a_death_or_a_hang_costs_its_item(side_by_side: Any) -> None:
    shown: list[tuple[str, bool]] = []
    groups = {"x": ["a", "dies", "b", "dies"], "y": ["hangs", "c"], "none": []}
    found = dict(side_by_side(groups, work, 2, 1.0, lambda i, r: shown.append((i, "error" in r))))
    words = {k: [r.get("item", r.get("error")) for r in v] for k, v in found.items()}
    assert words == {
        "x": ["a", "the process ended with 3", "b", "the process ended with 3"],
        "y": ["the process hung", "c"],
    }
    assert sorted(shown) == sorted(
        [("a", False), ("dies", True), ("b", False), ("dies", True), ("hangs", True), ("c", False)]
    )


@pytest.mark.parametrize("jobs", [1, 3])
def test_so_many_at_a_time(side_by_side: Any, jobs: int) -> None:
    groups = {str(i): ["slow"] for i in range(3)}
    found = [r[0] for _, r in side_by_side(groups, work, jobs, 20.0, lambda i, r: None)]
    assert len(found) == 3
    beside = max(one["began"] for one in found) < min(one["ended"] for one in found)
    assert beside == (jobs == 3)
