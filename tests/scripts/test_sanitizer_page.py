"""Runs of the sanitizer put together: case by case, tool by tool."""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
CUT = {"cut": "the time was over"}


def clean(seconds: float = 1.0) -> dict[str, float]:
    return {"findings": 0, "seconds": seconds}


def run(tool: str, **cases: dict[str, Any]) -> dict[str, Any]:
    return {
        "tool": tool,
        "what": "cases",
        "cases": {f"k/{name}": one for name, one in cases.items()},
    }


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("sanitizer_page")


def merged(page: Any, *runs: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {"planted": {}, "cases": {}}
    for one in runs:
        page.merge(kept, one)
    return kept["cases"]


def test_split_runs_combine_in_any_order(page: Any) -> None:
    runs = (
        run("memcheck", a=clean(), b=CUT),
        run("memcheck", b=clean(2.0), c=CUT),
        run("racecheck", a={"findings": 3, "first": "Error: Race"}),
    )
    expected = {
        "memcheck": {"k/a": clean(), "k/b": clean(2.0), "k/c": CUT},
        "racecheck": {"k/a": {"findings": 3, "first": "Error: Race"}},
    }
    for order in itertools.permutations(runs):
        assert merged(page, *order) == expected


def test_a_later_result_counts(page: Any) -> None:
    first, second = run("late", a=clean(), b={"findings": 1}), run("late", a={"findings": 2})
    assert merged(page, first, second)["late"] == {"k/a": {"findings": 2}, "k/b": {"findings": 1}}


def test_planted_faults_stand_apart(page: Any) -> None:
    kept: dict[str, Any] = {"planted": {}, "cases": {}}
    facts = {"waiting": clean(), "unwaiting": {"findings": 1}}
    page.merge(kept, {"tool": "late", "what": "faults", "cases": facts})
    assert kept == {"planted": {"late": facts}, "cases": {}}


def test_cut_cases_are_told_and_not_counted(page: Any) -> None:
    found = merged(page, run("memcheck", a=clean(), b=CUT), run("racecheck", a=CUT))
    found["memcheck"]["other/a"] = {"findings": 5}
    assert page.cases(found).splitlines()[2:] == [
        "| k | 0 of 1 (1 not run) | 0 of 0 (1 not run) |",
        "| other | 1 of 1 | - |",
        "| all | 1 of 2 (1 not run) | 0 of 0 (1 not run) |",
    ]


def test_today_s_cases_alone_and_what_became_of_their_texts(
    page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = SimpleNamespace(kernel="k1")
    cases = {f"k/{name}": ("kernels", case) for name in ("same", "other", "unknown", "never")}
    child = importlib.import_module("sanitize_child")
    monkeypatch.setattr(child, "chosen", lambda patterns, tool: cases if tool == "late" else {})
    facts = {
        "k/same": clean() | {"text": "aa", "old": True},
        "k/other": clean() | {"text": "bb"},
        "k/unknown": clean(),
        "k/gone": clean(),
    }
    kept = {"planted": {}, "cases": {"late": facts}}
    page.compare(kept, {"kernels": {"k1": "aa"}})
    assert kept["cases"]["late"] == {
        "k/never": {"cut": "never run"},
        "k/other": clean() | {"text": "bb", "old": True},
        "k/same": clean() | {"text": "aa"},
        "k/unknown": clean(),
    }
    assert (
        page.cell(list(kept["cases"]["late"].values())) == "0 of 3 (1 before a change, 1 not run)"
    )
    assert page.cell([]) == "-"
