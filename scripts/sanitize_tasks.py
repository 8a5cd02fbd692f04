"""How cases are shared out to processes of compute-sanitizer, and what becomes of each.

A tool slows kernels down a hundredfold, and too many tools at a time starve each other. So the cases
of a tool are put together to tasks of about equal length, of which a few run at once, the longest
first. What became of a case is `{"findings": n, "seconds": s}`, with the first report as `first`, if
its process went past it or the tool said what ended it; else `{"cut": why}`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "docs" / "sanitizer.json"  # results of earlier runs

Facts = dict[str, Any]
Command = Callable[["Task", Sequence[str]], list[str]]

MARK, END = "### case ", "### end"
KERNELS = "kernel_cutlass"  # how the names of compiled kernels begin
FINDING = re.compile(
    r"Invalid |Error: Race|Warning: Race|Uninitialized |Barrier error|Divergent|Malformed|Unsupported"
    r"|Insufficient|hit cuda|were not printed|dropped|overflow"
)
WHERE = re.compile(r" at [A-Za-z_]")  # reports of other kernels
OVER = "the time was over"
# Seconds of a process before its first case, and of a case that has never run.
START = 6.0
UNKNOWN = {"racecheck": 2.0, "late": 0.2}
LOG = 300_000  # bytes kept of what a task's processes print


@dataclass(frozen=True, slots=True)
class Task:
    """Cases that one process goes through.

    Args:
        tool: of compute-sanitizer, or `late`.
        what: `faults` or `cases`.
        names: of the cases, in order.
        seconds: that it will take, about.
    """

    tool: str
    what: str
    names: tuple[str, ...]
    seconds: float


def shared_out(
    tool: str, what: str, names: Sequence[str], known: dict[str, Facts], most: float = 40.0
) -> list[Task]:
    """Tasks of at most about `most` seconds.

    Args:
        tool: of all of them.
        what: of all of them.
        names: `kind/case`, the most telling first: so they are in every task.
        known: facts of earlier runs by name, for their seconds.
        most: seconds.
    """
    seconds = expected(tool, known)
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(name.partition("/")[0], []).append(name)
    parts: list[tuple[float, list[str]]] = []
    for own in kinds.values():
        count = max(1, round(sum(map(seconds, own)) / most))
        parts += [(sum(map(seconds, own[i::count])), own[i::count]) for i in range(count)]
    bins: list[tuple[float, list[str]]] = []
    for length, own in sorted(parts, key=lambda part: -part[0]):
        at = next((i for i, (used, _) in enumerate(bins) if used + length <= most), None)
        if at is None:
            bins.append((length, own))
        else:
            bins[at] = (bins[at][0] + length, bins[at][1] + own)
    return [Task(tool, what, tuple(own), START + length) for length, own in bins]


def expected(tool: str, known: dict[str, Facts]) -> Callable[[str], float]:
    """Seconds of a case: what it took, or the median of its kind."""
    took = {name: facts["seconds"] for name, facts in known.items() if "seconds" in facts}
    kinds: dict[str, list[float]] = {}
    for name, one in took.items():
        kinds.setdefault(name.partition("/")[0], []).append(one)
    usual = {kind: median(some) for kind, some in kinds.items()}

    def seconds(name: str) -> float:
        return took.get(name, usual.get(name.partition("/")[0], UNKNOWN.get(tool, 0.5)))

    return seconds


def run_tasks(
    tasks: Iterable[Task], run: Callable[[Task], dict[str, Facts]], jobs: int
) -> Iterator[tuple[Task, dict[str, Facts]]]:
    """Run so many at once, faults before cases and the longest first; each as it ends."""
    order = sorted(tasks, key=lambda task: (task.what == "cases", -task.seconds))
    with ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(run, task): task for task in order}
        for done in as_completed(running):
            yield running[done], done.result()


def run_task(
    task: Task, command: Command, log: Path, deadline: float, quiet: float
) -> dict[str, Facts]:
    """Facts of every case; after one that ends its process, a new process goes on with the next.

    Args:
        task: what to run.
        command: words that start a process for the named cases.
        log: what the processes print.
        deadline: of `time.monotonic`; what was not reached then is cut.
        quiet: seconds that a process may print nothing; the case under way is cut.
    """
    found: dict[str, Facts] = {}
    log.write_bytes(b"")
    while (left := task.names[len(found) :]) and time.monotonic() < deadline:
        text, killed = _process(command(task, left), log, deadline, quiet)
        reached = read(text, killed)
        if not reached:
            lost = left[:1] if killed else left
            reached = {name: {"cut": killed or _last(text)} for name in lost}
        found |= reached
    with log.open("r+b") as file:
        file.truncate(min(LOG, log.stat().st_size))
    return {name: found.get(name, {"cut": OVER}) for name in task.names}


def _process(words: list[str], log: Path, deadline: float, quiet: float) -> tuple[str, str]:
    """What a process printed, and why it was killed, if it was."""
    with log.open("ab") as file:
        begin = file.tell()
        child = subprocess.Popen(
            words,
            env=os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        size, said, why = begin, time.monotonic(), ""
        while not why:
            try:
                child.wait(0.2)
                break
            except subprocess.TimeoutExpired:
                now = time.monotonic()
            if log.stat().st_size != size:
                size, said = log.stat().st_size, now
            if now > deadline:
                why = OVER
            elif now > said + quiet:
                why = f"nothing printed for {quiet:g} s"
        if why:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    return log.read_bytes()[begin:].decode(errors="replace"), why


def read(text: str, killed: str = "") -> dict[str, Facts]:
    """Facts by case of what one process printed.

    Args:
        text: a line `MARK seconds name` begins each case, one `END seconds` follows the last.
        killed: why the process was, if it was.
    """
    found: dict[str, Facts] = {}
    blocks = text.split(MARK)
    for i, block in enumerate(blocks[1:], 1):
        head, _, body = block.partition("\n")
        began, _, name = head.partition(" ")
        after = blocks[i + 1] if i + 1 < len(blocks) else block.partition(END)[2]
        reports = [one for one in body.split("========= \n") if FINDING.search(one)]
        ours = [one for one in reports if KERNELS in one or not WHERE.search(one)]
        if after.split():
            seconds = round(float(after.split()[0]) - float(began), 2)
            found[name] = {"findings": len(ours), "seconds": seconds}
        elif ours:
            found[name] = {"findings": len(ours)}
        else:
            found[name] = {"cut": killed or _last(body)}
        if ours:
            found[name]["first"] = ours[0][:1500]
    return found


def _last(text: str) -> str:
    """The last line that a process printed by itself."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("=====")]
    return f"the process ended: {lines[-1].strip()[:300] if lines else 'it said nothing'}"
