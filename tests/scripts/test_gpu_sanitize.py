"""What scripts/gpu_sanitize.py would start, and what it says of results."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.syspath_prepend(ROOT / "tests" / "gpu")
    return importlib.import_module("gpu_sanitize")


def asked(libraries: Path, tools: str, *patterns: str, missing: bool = False) -> argparse.Namespace:
    return argparse.Namespace(
        libraries=libraries, patterns=list(patterns), planted=False, missing=missing, tools=tools
    )


def planned(script: Any, libraries: Path, *patterns: str) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    given = asked(libraries, "racecheck,late", *patterns)
    for task, _ in script.tasks(given, {"planted": {}, "cases": {}}):
        found.setdefault((task.tool, task.what), []).extend(task.names)
    return found


def test_without_patterns_all_that_was_built_and_the_faults(script: Any, tmp_path: Path) -> None:
    record = {"kinds": ["rms_norm", "step_metadata"], "texts": {}}
    (tmp_path / script.RECORD).write_text(json.dumps(record))
    found = planned(script, tmp_path)
    assert found["racecheck", "faults"] == list(script.PLANTED["racecheck"])
    assert found["late", "faults"] == ["waiting", "unwaiting"]
    kinds = {name.partition("/")[0] for name in found["racecheck", "cases"]}
    assert kinds == {"rms_norm", "step_metadata"}
    assert {name.partition("/")[0] for name in found["late", "cases"]} == {"rms_norm"}


def test_named_cases_alone(script: Any, tmp_path: Path) -> None:
    found = planned(script, tmp_path, "rms_norm/t3_")
    assert {what for _, what in found} == {"cases"}
    assert found["racecheck", "cases"]
    assert all(name.startswith("rms_norm/t3_") for name in found["racecheck", "cases"])


def test_results_name_the_text_of_their_kernel(script: Any, tmp_path: Path) -> None:
    build = importlib.import_module("sanitize_build")
    record: dict[str, Any] = {"kinds": ["rms_norm"]}
    record["texts"] = build.texts(build.sources(["rms_norm"]))
    (tmp_path / script.RECORD).write_text(json.dumps(record))
    given = asked(tmp_path, "memcheck,racecheck")
    (texts,) = (
        found
        for task, found in script.tasks(given, {"planted": {}, "cases": {}})
        if (task.tool, task.what) == ("memcheck", "cases")
    )
    assert {one["text"] for one in texts.values()} <= set(record["texts"]["kernels"].values())
    assert all(len(one["text"]) == 12 for one in texts.values())


def test_missing_is_what_was_cut_or_has_another_text(script: Any, tmp_path: Path) -> None:
    build = importlib.import_module("sanitize_build")
    record: dict[str, Any] = {"kinds": ["rms_norm"]}
    record["texts"] = build.texts(build.sources(["rms_norm"]))
    (tmp_path / script.RECORD).write_text(json.dumps(record))
    every = planned(script, tmp_path)["racecheck", "cases"]
    given = asked(tmp_path, "racecheck", missing=True)
    kept: dict[str, Any] = {name: {"findings": 0} for name in every[2:]}
    kept |= {every[0]: {"cut": "the time was over"}, every[1]: {"findings": 0, "text": "other"}}
    known = {"planted": {}, "cases": {"racecheck": kept}}
    names = [name for task, _ in script.tasks(given, known) for name in task.names]
    assert sorted(names) == sorted(every[:2])


def test_a_cut_case_or_a_missed_fault_fails(script: Any, capsys: Any) -> None:
    clean, cut = {"findings": 0, "seconds": 1.0}, {"cut": "the time was over"}
    cases = ("memcheck", "cases")
    assert script.report({cases: {"k/a": clean}}) == 0
    assert script.report({cases: {"k/a": clean, "k/b": cut}}) == 1
    assert "2 cases, 0 with findings, 1 cut\n  k/b: the time was over\n" in capsys.readouterr().out
    late = {"waiting": clean, "unwaiting": {"findings": 1}}
    assert script.report({("late", "faults"): late}) == 0
    assert script.report({("late", "faults"): late | {"waiting": cut}}) == 1
    assert script.report({("late", "faults"): {"waiting": clean, "unwaiting": clean}}) == 1


def test_every_planted_kernel_is_correct_unclear_or_a_fault(script: Any) -> None:
    for tool, faults in script.FAULTS.items():
        assert {*faults, *script.CORRECT[tool]} <= set(script.PLANTED[tool])
        assert not set(faults) & set(script.CORRECT[tool])
