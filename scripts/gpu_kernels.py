"""Check and time the kernels of a library on the GPU of this machine.

usage: gpu_kernels.py [--library .build/gpu/libkernels.so] [--out DIR] [--no-check] [--no-time]
                      [--no-baselines] [--without BASELINE] [--limit SECONDS] [--jobs N] [--seed N]
                      [pattern ...]

With --no-check only the cases that are timed run. A pattern `KIND` or `KIND/NAME` selects the kinds
and cases that contain these texts. Every kernel runs in a child process with a time limit; a child
that dies or hangs fails its current case only. Data are drawn anew each time: a result has the seed
that --seed takes to draw them again. With --no-time, N kernels run side by side; one that
found no memory beside the others runs again alone. The table comes last; everything is in
<out>/gpu_kernels.json. Exit status 1 if a gate fails.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "gpu")]
os.environ.setdefault("TVM_FFI_DISABLE_TORCH_C_DLPACK", "1")

import harness  # noqa: E402
import timing  # noqa: E402
import torch  # noqa: E402
import tvm_ffi  # noqa: E402
from children import Result, side_by_side  # noqa: E402

from dsv4c.bench.card import measure_card  # noqa: E402

Named = tuple[str, harness.Case]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("patterns", nargs="*")
    parser.add_argument("--library", type=Path, default=ROOT / ".build" / "gpu" / "libkernels.so")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".build/gpu")))
    parser.add_argument("--no-check", action="store_true")
    parser.add_argument("--no-time", action="store_true")
    parser.add_argument("--no-baselines", action="store_true")
    parser.add_argument("--without", action="append", default=[], metavar="BASELINE")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds per case")
    parser.add_argument("--seed", type=int, help="of every case's data")
    parser.add_argument("--jobs", type=int, default=1, help="kernels at a time, if none is timed")
    given = parser.parse_args()
    if given.jobs > 1 and not given.no_time:
        parser.error("--jobs wants --no-time: kernels side by side cannot be timed")
    return given


def collect(patterns: list[str], timed: bool = False) -> dict[str, list[Named]]:
    """Cases by kernel, as (kind, case); with `timed`, those that have a time."""
    found: dict[str, list[Named]] = {}
    wanted = [pattern.partition("/")[::2] for pattern in patterns] or [("", "")]
    for file in sorted((ROOT / "tests" / "gpu").glob("cases_*.py")):
        names = [name for kind, name in wanted if kind in file.stem]
        if not names:
            continue
        module = importlib.import_module(file.stem)
        for case in module.cases():
            if timed and case.bench is None:
                continue
            if any(name in case.name for name in names):
                found.setdefault(case.kernel, []).append((module.KIND, case))
    return found


def run_case(case: harness.Case, kernel: Any, given: argparse.Namespace) -> Result:
    """Gates and times of one case, in this process."""
    result: Result = {}
    if case.verify is not None and not given.no_check:
        seed = int.from_bytes(os.urandom(3), "little") if given.seed is None else given.seed
        gates = harness.check(case, kernel, seed)
        result["seed"] = seed
        result["gates"] = [dataclasses.asdict(gate) for gate in gates]
        torch.cuda.empty_cache()
    if case.bench is not None and not given.no_time:
        result |= {"bytes": case.bench.bytes, "flops": case.bench.flops}
        loop = timing.kernel_loop(case, kernel)
        first = loop.time()
        result |= {"us": first.us, "low": first.low, "high": first.high, "baselines": {}}
        names = [] if given.no_baselines else [*case.bench.baselines]
        names = [name for name in names if name not in given.without]
        again = None if names else loop.time()
        del loop
        for name in names:
            torch.cuda.empty_cache()
            baseline = case.bench.baselines[name]
            result["baselines"][name] = timing.time_baseline(case, baseline).us
        result["us_again"] = (again or timing.kernel_loop(case, kernel).time()).us
    return result


def child(given: argparse.Namespace, cases: Sequence[Named], answers: Connection) -> None:
    """Run the cases of one kernel, one answer each."""
    for _, case in cases:
        start = time.monotonic()
        try:
            kernel = tvm_ffi.load_module(str(given.library)).get_function(case.kernel)
            result = run_case(case, kernel, given)
        except Exception:
            result = {"error": traceback.format_exc()[-3000:]}
        answers.send({**result, "seconds": round(time.monotonic() - start, 2)})
        torch.cuda.empty_cache()
    answers.close()


def run_kernels(
    kernels: dict[str, list[Named]], given: argparse.Namespace
) -> Iterator[tuple[str, list[Result]]]:
    """The results of each kernel; last come those that found no memory beside others."""
    work = partial(child, given)
    again: dict[str, list[Named]] = {}
    for kernel, results in side_by_side(kernels, work, given.jobs, given.limit, show):
        full = ["OutOfMemoryError" in one.get("error", "") for one in results]
        if given.jobs > 1 and any(full):
            again[kernel] = kernels[kernel]
        else:
            yield kernel, results
    yield from side_by_side(again, work, 1, given.limit, show)


def passed(result: Result) -> bool:
    """Every gate held and nothing broke."""
    return "error" not in result and all(gate["ok"] for gate in result.get("gates", []))


def show(case: Named, result: Result) -> None:
    """One line for a result as it comes, with the gates that failed."""
    word = "ok   " if passed(result) else "WRONG"
    print(word, f"{case[0]}/{case[1].name}", result.get("seconds", ""), flush=True)
    for gate in result.get("gates", []):
        if not gate["ok"]:
            print("     ", gate, "seed", result["seed"], flush=True)
    if "error" in result:
        print(result["error"], flush=True)


def table(results: list[Result], rate: float) -> None:
    """The short table."""
    print(f"copy rate {rate / 1e12:.3f} TB/s; ratio: worst error / bound; copy %: of the copy rate")
    for result in results:
        worst = max((gate["ratio"] for gate in result.get("gates", [])), default=float("nan"))
        line = f"{'ok   ' if passed(result) else 'WRONG'} {result['case']:62s} ratio {worst:6.3f}"
        if "us" in result:
            us = min(result["us"], result["us_again"])
            line += f" {us:9.2f} us {result['bytes'] / us / 1e-6 / rate * 100:5.1f} %"
            if result["flops"]:
                line += f" {result['flops'] / us / 1e6:6.1f} TF"
            for name, base in result["baselines"].items():
                line += f"  {name} {base:.1f} (x{base / us:.2f})"
        print(line)


def measured_card(sender: Connection) -> None:
    """In a child: the parent never starts CUDA, so that it can fork."""
    sender.send(measure_card())


def main() -> int:
    """Run everything that was asked for."""
    given = arguments()
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=measured_card, args=(sender,))
    process.start()
    sender.close()
    card = receiver.recv()
    process.join()
    results: list[Result] = []
    report = {
        "device": card.name,
        "torch": card.torch,
        "copy_rate": card.copy,
        "bf16_rate": card.bf16,
        "fp8_rate": card.fp8,
        "results": results,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    kernels = collect(given.patterns, given.no_check)
    for kernel, found in run_kernels(kernels, given):
        for (kind, case), result in zip(kernels[kernel], found, strict=True):
            results.append({"case": f"{kind}/{case.name}", "kernel": kernel, **result})
        # After each kernel: what was found stays if the run is cut off.
        (given.out / "gpu_kernels.json").write_text(json.dumps(report, indent=1) + "\n")
    table(results, card.copy)
    return 0 if all(passed(result) for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
