"""Run small cases of every kernel under compute-sanitizer: memcheck, racecheck, initcheck, synccheck.

usage: gpu_sanitize.py --build DIR [kind ...]            (here: the libraries of all or of these kinds)
       gpu_sanitize.py --libraries DIR [--out OUT]       (on the GPU machine: all that DIR has)
                       [--tools T,..] [--jobs N] [--limit SECONDS] [--planted] [--missing]
                       [kind[/pattern] ...]

DIR gets libkernels.so; libtraced.so, the kernels for racecheck where this cannot follow them as they
are (tests/gpu/planted/traced.py says why); libunsplit.so, sparse attention as if no clusters shared
a token; libfaults.so, kernels with a planted fault each. The cases are those of
tests/gpu/sanitized.py. With --planted, or where no kinds are named, every tool must also find the
faults that were planted for it. With --missing, only those cases run that docs/sanitizer.json has no
result of with the very text of their kernel. Only kernels of this repository are instrumented, except by
initcheck, which must see who writes the inputs. `late` is no tool: tests/gpu/late.py.

N processes run at once, each with one tool and a share of the cases, the longest first by what they
took before (docs/sanitizer.json); one that a fault ends goes on with the next case in a new one. What
is not done after SECONDS is cut. Everything is in <out>/gpu_sanitize.json from the start; exit status
1 if a tool misses a fault or finds anything else, or if a case is cut.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from sanitize_build import CORRECT, FAULTS, PLANTED, RECORD, build
from sanitize_tasks import KEPT, KERNELS, OVER, ROOT, Facts, Task, run_task, run_tasks, shared_out

Texts = dict[str, Facts]


def command(libraries: Path, task: Task, names: Sequence[str]) -> list[str]:
    """A tool's command line around sanitize_child.py."""
    words = ["compute-sanitizer", "--tool", task.tool]
    words += ["--print-limit", "10000", "--show-backtrace", "no"]
    if task.tool == "synccheck":
        words += ["--num-cuda-barriers", "65536"]
    if task.tool != "initcheck":
        words += ["--kernel-name", f"kns={KERNELS}"]
    words = [] if task.tool == "late" else words
    child = [sys.executable, str(ROOT / "scripts" / "sanitize_child.py")]
    return [*words, *child, str(libraries), task.tool, task.what, *names]


def tasks(given: argparse.Namespace, known: dict[str, Any]) -> Iterator[tuple[Task, Texts]]:
    """Everything that was asked for, and what text each case's kernel is of, where that is known."""
    from sanitize_child import chosen

    built: dict[str, Any] = {"kinds": [], "texts": {}}
    if (record := given.libraries / RECORD).exists():
        built = json.loads(record.read_text(encoding="utf-8"))
    for tool in given.tools.split(","):
        if given.planted or not (given.patterns or given.missing):
            earlier = known["planted"].get(tool, {})
            for task in shared_out(tool, "faults", PLANTED[tool], earlier, most=1e9):
                yield task, {}
        cases = chosen(given.patterns or built["kinds"], tool)
        keys = {
            name: built["texts"].get(library, {}).get(case.kernel, "")
            for name, (library, case) in cases.items()
        }
        earlier = known["cases"].get(tool, {})
        names = [name for name in cases if not (given.missing and _known(earlier, name, keys))]
        for task in shared_out(tool, "cases", names, earlier):
            yield task, {name: {"text": keys[name]} for name in task.names if keys[name]}


def _known(earlier: Texts, name: str, keys: dict[str, str]) -> bool:
    """Whether this case ran to its end with this text of its kernel, or one that has no name."""
    facts = earlier.get(name, {"cut": OVER})
    return "cut" not in facts and facts.get("text", keys[name]) == keys[name]


def main() -> int:
    """Build, or run the tasks and say what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("patterns", nargs="*")
    parser.add_argument("--build", type=Path)
    parser.add_argument("--libraries", type=Path)
    parser.add_argument("--planted", action="store_true")
    parser.add_argument("--missing", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".build/gpu")))
    parser.add_argument("--tools", default=",".join(FAULTS))
    parser.add_argument("--jobs", type=int, default=6, help="processes at once")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds of all of it")
    parser.add_argument("--quiet", type=float, default=120.0, help="seconds without a word")
    given = parser.parse_args()
    if given.build:
        build(given.build, given.patterns)
        return 0
    deadline = time.monotonic() + given.limit
    given.out.mkdir(parents=True, exist_ok=True)
    known = json.loads(KEPT.read_text(encoding="utf-8"))
    planned = dict(tasks(given, known))
    results = {(task.tool, task.what): dict[str, Facts]() for task in planned}
    for task in planned:
        results[task.tool, task.what] |= {name: {"cut": OVER} for name in task.names}
    numbers = count(1)

    def run(task: Task) -> dict[str, Facts]:
        log = given.out / f"{task.tool}_{task.what}_{next(numbers)}.txt"
        start = lambda task, names: command(given.libraries, task, names)  # noqa: E731
        return run_task(task, start, log, deadline, given.quiet)

    begin = time.monotonic()
    for task, found in run_tasks(planned, run, given.jobs):
        texts = planned[task]
        facts = {name: texts.get(name, {}) | one for name, one in found.items()}
        results[task.tool, task.what] |= facts
        (given.out / "gpu_sanitize.json").write_text(document(results), encoding="utf-8")
        print(
            f"{time.monotonic() - begin:6.1f} s  {task.tool} {task.what}: {len(found)} of "
            f"{', '.join(sorted({name.partition('/')[0] for name in task.names}))}",
            flush=True,
        )
    return report(results)


def document(results: dict[tuple[str, str], dict[str, Facts]]) -> str:
    """What scripts/sanitizer_page.py reads."""
    runs = [{"tool": tool, "what": what, "cases": facts} for (tool, what), facts in results.items()]
    return json.dumps(runs, indent=1) + "\n"


def report(results: dict[tuple[str, str], dict[str, Facts]]) -> int:
    """Print what was found; 1 if a fault was missed, a case has findings or was cut."""
    failed = False
    for (tool, what), facts in results.items():
        found = {case: one.get("findings", 0) for case, one in facts.items()}
        cut = {case: one["cut"] for case, one in facts.items() if "cut" in one}
        if what == "faults":
            missed = [fault for fault in FAULTS[tool] if not found[fault]]
            wrong = [name for name in CORRECT[tool] if found[name] or name in cut]
            failed |= bool(missed) or bool(wrong)
            print(f"{tool}: missed {missed}, reports correct ones {wrong}; all: {found}")
            continue
        bad = {case: number for case, number in found.items() if number}
        failed |= bool(bad) or bool(cut)
        print(f"{tool}: {len(found)} cases, {len(bad)} with findings, {len(cut)} cut")
        for case, number in sorted((bad | cut).items())[:40]:
            print(f"  {case}: {number}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
