"""Kill a dsv4c command at random moments: its output must be whole or not there, and the next run succeed.

usage: kills.py [--times 100] [--seed N] OUT -- COMMAND...

COMMAND is what follows `dsv4c`, OUT the path that it makes, for example

  kills.py /tmp/q -- quantize MODEL /tmp/q --attention fp8-all
  kills.py /tmp/s -- synth CONFIG /tmp/s --layers 0,2

The command runs once to its end to learn what is right and how long it takes. Then, again and again:
start it, SIGKILL it after a random part of that time, look at OUT, run it to its end, compare, and
remove OUT. Runs are forked from one process that has imported everything, so that kills hit the work
and not the start of Python.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from dsv4c.cli import main as dsv4c  # noqa: E402


def start(command: list[str]) -> int:
    """Fork a process that runs the command; its id."""
    child = os.fork()
    if child:
        with suppress(PermissionError, ProcessLookupError):  # it has begun, or ended, already
            os.setpgid(child, child)
        return child
    status = 1
    try:
        os.setpgid(0, 0)
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        dsv4c.main(command, standalone_mode=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        os._exit(status)


def kill(child: int) -> bool:
    """SIGKILL a process and its children; False if it had ended by itself."""
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def finish(command: list[str]) -> None:
    """Run the command to its end; it must succeed."""
    _, status = os.waitpid(start(command), 0)
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(command)} ended with {code}")


def digest(out: Path, ignored: set[str]) -> dict[str, str]:
    """Hash of each file below a path."""
    paths = [out] if out.is_file() else sorted(path for path in out.rglob("*") if path.is_file())
    return {
        str(path.relative_to(out.parent)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if path.name not in ignored
    }


def remove(out: Path) -> None:
    """Delete a file or folder."""
    if out.is_dir():
        shutil.rmtree(out)
    else:
        out.unlink(missing_ok=True)


def main() -> int:
    """Kill and compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ignore", nargs="*", default=["events.jsonl", "manifest.json"])
    parser.add_argument("out", type=Path)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    out, ignored = given.out.absolute(), {*given.ignore}
    command = given.command[given.command[0] == "--" :]
    import torch  # noqa: F401

    import dsv4c.api
    import dsv4c.checkpoint.quantize  # noqa: F401

    out.parent.mkdir(parents=True, exist_ok=True)
    remove(out)
    before = {path.name for path in out.parent.iterdir()}
    seconds = float("inf")
    for _ in range(2):
        remove(out)
        began = time.perf_counter()
        finish(command)
        seconds = min(seconds, time.perf_counter() - began)
    right, choose = digest(out, ignored), random.Random(given.seed)
    remove(out)
    killed = absent = 0
    while killed < given.times:
        child = start(command)
        time.sleep(choose.uniform(0, seconds))
        killed += kill(child)
        if out.exists():
            assert digest(out, ignored) == right, "a killed run left a part of the output"
        else:
            absent += 1
            finish(command)
            assert digest(out, ignored) == right, "the run after a kill made something else"
        remove(out)
    left = {path.name for path in out.parent.iterdir()} - before
    print(f"{killed} kills in runs of {seconds:.1f} s: output absent {absent}, else whole")
    print(f"left beside the output: {sorted(left) or 'nothing'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
