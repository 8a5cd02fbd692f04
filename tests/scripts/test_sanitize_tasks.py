"""Cases of the sanitizer shared out to processes, and what became of each, without a GPU."""

from __future__ import annotations

import importlib
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

# What a child prints of each name: a clean case, a finding, a crash that the tool or only Python sees.
CHILD = """
import sys, time
for name in sys.argv[1:]:
    print(f"### case {time.monotonic()} {name}", flush=True)
    if "found" in name:
        print("========= \\n========= Error: Race at kernel_cutlass_x\\n========= \\n", flush=True)
    if "other" in name:
        print("========= \\n========= Invalid read at vectorized_kernel\\n========= \\n", flush=True)
    if "killed" in name:
        print("========= \\n========= Invalid write at kernel_cutlass_x\\n========= \\n", flush=True)
        sys.exit(1)
    if "broken" in name:
        sys.exit("RuntimeError: no memory")
    if "hung" in name:
        time.sleep(60)
print(f"### end {time.monotonic()}", flush=True)
"""


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("sanitize_tasks")


def names(kind: str, count: int) -> list[str]:
    return [f"{kind}/{i}" for i in range(count)]


def test_cases_are_shared_out_evenly_and_the_first_come_first(tasks: Any) -> None:
    given = names("long", 10) + names("short", 2) + names("brief", 3)
    known = {name: {"seconds": 12.0 if "long" in name else 1.0} for name in given}
    found = tasks.shared_out("racecheck", "cases", given, known, most=40.0)
    assert sorted(name for task in found for name in task.names) == sorted(given)
    assert [task.seconds - tasks.START for task in found] == [48.0, 39.0, 38.0]
    long = [task.names for task in found if task.names[0].startswith("long")]
    assert [own[0] for own in long] == ["long/0", "long/1", "long/2"]
    assert long[0][1] == "long/3"


def test_small_kinds_share_a_process(tasks: Any) -> None:
    given = names("a", 4) + names("b", 4)
    (one,) = tasks.shared_out("late", "cases", given, {})
    assert sorted(one.names) == given
    assert one.seconds == pytest.approx(tasks.START + 8 * tasks.UNKNOWN["late"])


def test_a_case_that_never_ended_counts_as_one_of_its_kind(tasks: Any) -> None:
    known = {f"a/{i}": {"seconds": float(i)} for i in (1, 2, 30)} | {"a/x": {"cut": "never run"}}
    seconds = tasks.expected("racecheck", known)
    assert [seconds(name) for name in ("a/30", "a/x", "a/y")] == [30.0, 2.0, 2.0]
    assert seconds("b/z") == tasks.UNKNOWN["racecheck"]


def test_so_many_at_once_and_the_longest_first(tasks: Any) -> None:
    given = [tasks.Task("memcheck", "cases", (str(i),), float(i)) for i in range(1, 9)]
    given.append(tasks.Task("memcheck", "faults", ("0",), 0.0))
    lock, running, most, begun = threading.Lock(), 0, 0, list[str]()

    def run(task: Any) -> dict[str, Any]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            begun.append(task.names[0])
        time.sleep(0.02)
        with lock:
            running -= 1
        return {task.names[0]: {"findings": 0, "seconds": 0.0}}

    done = dict(tasks.run_tasks(given, run, 3))
    assert most == 3
    assert sorted(begun[:3]) == ["0", "7", "8"]
    assert {task.names[0] for task in done} == set("012345678")
    assert all(list(found) == list(task.names) for task, found in done.items())


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tasks: Any, tmp_path: Path) -> Run:
    script = tmp_path / "child.py"
    script.write_text(CHILD, encoding="utf-8")

    def run(*cases: str, seconds: float = 30.0, quiet: float = 20.0) -> dict[str, Any]:
        def command(task: Any, left: Sequence[str]) -> list[str]:
            return [sys.executable, str(script), *left]

        task = tasks.Task("memcheck", "cases", cases, 1.0)
        end = time.monotonic() + seconds
        return tasks.run_task(task, command, tmp_path / "log.txt", end, quiet)

    return run


def test_a_new_process_goes_on_behind_a_case_that_ends_one(run: Run) -> None:
    found = run("clean", "found", "other", "killed", "broken", "last")
    assert list(found) == ["clean", "found", "other", "killed", "broken", "last"]
    assert {name: one.get("findings") for name, one in found.items()} == {
        **{"clean": 0, "found": 1, "other": 0, "killed": 1},
        **{"broken": None, "last": 0},
    }
    assert found["broken"] == {"cut": "the process ended: RuntimeError: no memory"}
    assert "Invalid write at kernel_cutlass_x" in found["killed"]["first"]
    assert "seconds" not in found["killed"]


def test_what_time_does_not_suffice_for_is_cut_never_clean(run: Run, tasks: Any) -> None:
    found = run("clean", "hung", "last", seconds=1.0)
    assert found["clean"]["findings"] == 0
    assert found["hung"] == found["last"] == {"cut": tasks.OVER}
    assert run("clean", seconds=-1.0) == {"clean": {"cut": tasks.OVER}}


def test_a_case_that_hangs_costs_itself(run: Run) -> None:
    found = run("hung", "last", quiet=1.0)
    assert found["hung"] == {"cut": "nothing printed for 1 s"}
    assert found["last"]["findings"] == 0


def test_a_process_that_never_starts_cuts_all_its_cases(tasks: Any, tmp_path: Path) -> None:
    task = tasks.Task("memcheck", "cases", ("a", "b"), 1.0)
    words = [sys.executable, "-c", "raise ImportError('no such module')"]
    found = tasks.run_task(task, lambda *_: words, tmp_path / "log", time.monotonic() + 20, 20.0)
    why = {"cut": "the process ended: ImportError: no such module"}
    assert found == {"a": why, "b": why}


def test_reports_of_a_finding_in_the_last_case(tasks: Any) -> None:
    text = (
        "### case 1.0 a\n### case 2.5 b\n========= \nBarrier error at kernel_cutlass_y\n### end 4.0"
    )
    found = tasks.read(text)
    assert found["a"] == {"findings": 0, "seconds": 1.5}
    assert (found["b"]["findings"], found["b"]["seconds"]) == (1, 1.5)
