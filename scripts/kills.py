"""Kill a dsv4c command at random moments: its output must be whole or not there, and the next run succeed.

usage: kills.py [--times 100] [--seed N] [--pack] [--keep] [--page FILE] OUT -- COMMAND...

COMMAND is what follows `dsv4c`, OUT the path that it makes, for example

  kills.py /tmp/q -- quantize MODEL /tmp/q --attention fp8-all
  kills.py /tmp/s -- synth CONFIG /tmp/s --layers 0,2
  kills.py --pack --keep /tmp/p -- compile MODEL -o /tmp/p --target cpu

The command runs once to its end to learn what is right and how long it takes. Then, again and again:
start it, SIGKILL it after a random part of that time, look at OUT, run it to its end, compare, and
remove OUT (with --keep, leave it to be replaced). With --pack, compiles pack routed experts, as
pack_bench.py has them do. With --page, the result is a row of that page, in place of the command's last. Runs are forked from one process that has imported everything, so that kills hit the work
and not the start of Python.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import pack_bench  # noqa: E402

from dsv4c.cli import main as dsv4c  # noqa: E402

PACKING = {
    pack_bench.GATE_UP: "gate_up_16+mma_fp4+mma_nvfp4_scales",
    pack_bench.DOWN: "mma_fp4+mma_nvfp4_scales",
}
HEAD = [
    "# Killed runs",
    "",
    "Written by `python scripts/kills.py --page docs/kills.md OUT -- COMMAND`, a row a command. A run is",
    "killed with SIGKILL at a random moment of the time that it takes. What is then at OUT must be whole",
    "or not there: as before, or byte for byte what a run that is left alone makes. The next run must",
    "succeed and make just that. With `--pack` compiles pack the routed experts; with `--keep` each run",
    "replaces the output of the one before, else there is none. Left: files beside OUT at the end.",
    "",
    "| command | kills | a run, s | no output | whole output | else | left |",
    "|---|---|---|---|---|---|---|",
]


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
    parser.add_argument("--pack", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--page", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    out, ignored = given.out.absolute(), {*given.ignore}
    given.command = given.command[given.command[0] == "--" :]
    import torch  # noqa: F401

    import dsv4c.api
    import dsv4c.checkpoint.quantize  # noqa: F401

    out.parent.mkdir(parents=True, exist_ok=True)
    before = {path.name for path in out.parent.iterdir()} - {out.name}
    with pack_bench.told(PACKING) if given.pack else nullcontext():
        seconds, right = first_runs(given.command, out, ignored)
        if given.pack:
            packed = json.loads((out / "manifest.json").read_bytes())["packed"]
            assert {one["packing"] for one in packed} == {*PACKING.values()}
        killed, absent = kills(given, out, ignored, seconds, right)
    remove(out)
    left = {path.name for path in out.parent.iterdir()} - before
    print(f"{killed} kills in runs of {seconds:.1f} s: output absent {absent}, else whole")
    print(f"left beside the output: {sorted(left) or 'nothing'}")
    if given.page is not None:
        write_row(
            given, f"{killed} | {seconds:.1f} | {absent} | {killed - absent} | 0 | {len(left)}"
        )
    return 0


def first_runs(command: list[str], out: Path, ignored: set[str]) -> tuple[float, dict[str, str]]:
    """Seconds that the command takes, and the hashes of what it makes, which is left there."""
    seconds = float("inf")
    for _ in range(2):
        remove(out)
        began = time.perf_counter()
        finish(command)
        seconds = min(seconds, time.perf_counter() - began)
    return seconds, digest(out, ignored)


def kills(
    given: argparse.Namespace, out: Path, ignored: set[str], seconds: float, right: dict[str, str]
) -> tuple[int, int]:
    """How many runs were killed, and how many of them left no output."""
    choose, killed, absent = random.Random(given.seed), 0, 0
    while killed < given.times:
        if not given.keep:
            remove(out)
        child = start(given.command)
        time.sleep(choose.uniform(0, seconds))
        if not kill(child):
            continue
        killed += 1
        if out.exists():
            assert digest(out, ignored) == right, "a killed run left a part of the output"
        absent += not out.exists()
        if given.keep or not out.exists():
            finish(given.command)
            assert digest(out, ignored) == right, "the run after a kill made something else"
    return killed, absent


def write_row(given: argparse.Namespace, cells: str) -> None:
    """Put the result into the page."""
    words = [Path(word).name if "/" in word else word for word in given.command]
    name = (
        f"`{' '.join(words)}`" + ", packing" * given.pack + ", over an earlier output" * given.keep
    )
    lines = given.page.read_text(encoding="utf-8").splitlines() if given.page.exists() else HEAD
    lines = [line for line in lines if not line.startswith(f"| {name} |")]
    given.page.write_text("\n".join([*lines, f"| {name} | {cells} |"]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
