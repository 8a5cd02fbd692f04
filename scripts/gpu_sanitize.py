"""Run small cases of every kernel under compute-sanitizer: memcheck, racecheck, initcheck, synccheck.

usage: gpu_sanitize.py --build DIR              (here: libfaults.so, kernels with a planted fault each;
                                                  libunsplit.so, sparse attention without clusters)
       gpu_sanitize.py --library LIB [--planted DIR] [--out DIR] [--tools T,..] [--limit SECONDS]
                       [kind[/pattern] ...]              (on the GPU machine)

The cases are those of tests/gpu/sanitized.py. With --planted, every tool must first find the fault
that was planted for it. Only kernels of this repository are instrumented, except by initcheck, which
must see who writes the inputs. Each tool runs in a process of its own, all side by side; one that a
fault ends goes on with the next case in a new one. Everything is in <out>/gpu_sanitize.json; exit
status 1 if a tool misses its fault, finds anything else, or does not come to the end.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "gpu")]
os.environ.setdefault("TVM_FFI_DISABLE_TORCH_C_DLPACK", "1")

# What each tool has to find.
FAULTS = {
    "memcheck": "outside",
    "racecheck": "race",
    "initcheck": "unwritten",
    "synccheck": "diverged",
}
# Correct kernels that a tool may not understand: what it reports there it cannot judge elsewhere.
CORRECT = ("none", "arrive", "mbarrier", "elected", "pingpong", "rearrive")
PLANTED = (*CORRECT, *FAULTS.values())
MARK, END = "### case ", "### end"
KERNELS = "kernel_cutlass"  # how the names of compiled kernels begin
FINDING = re.compile(
    r"Invalid |Error: Race|Warning: Race|Uninitialized |Barrier error|Divergent|Malformed|Unsupported"
    r"|Insufficient|hit cuda|were not printed|dropped|overflow"
)

WHERE = re.compile(r" at [A-Za-z_]")  # reports of other kernels


def build(folder: Path) -> None:
    """Compile <folder>/libfaults.so and <folder>/libunsplit.so."""
    import cases_sparse_attention

    from dsv4c.codegen.build import build_kernels
    from dsv4c.codegen.kernel import KernelSource
    from dsv4c.codegen.link import link_library
    from dsv4c.codegen.render import render
    from dsv4c.codegen.tiles.sparse_attention import SPARSE_ATTENTION

    text = (ROOT / "tests" / "gpu" / "planted" / "faults.py").read_text(encoding="utf-8")
    sources = [
        KernelSource(
            f"planted_{fault}",
            "planted",
            "sm_90a",
            "",
            text.replace('FAULT = "none"', f'FAULT = "{fault}"'),
            {},
        )
        for fault in PLANTED
    ]
    SPARSE_ATTENTION["sm_90a"] = replace(SPARSE_ATTENTION["sm_90a"], splits=())
    whole = [
        render("sparse_attention", params, "sm_90a")
        for params in cases_sparse_attention.variants("sm_90a")
    ]
    folder.mkdir(parents=True, exist_ok=True)
    for name, texts in (("faults", sources), ("unsplit", whole)):
        objects = [entry.object for entry in build_kernels(texts)]
        link_library(objects, folder / f"lib{name}.so")


def run_faults(given: argparse.Namespace) -> None:
    """In a child: every planted kernel once."""
    import torch
    import tvm_ffi

    module = tvm_ffi.load_module(str(given.planted / "libfaults.so"))
    for fault in PLANTED[given.skip :]:
        print(f"{MARK}{time.monotonic()} {fault}", flush=True)
        host = torch.arange(128, dtype=torch.float32)
        x, y = torch.empty(128, device="cuda"), torch.empty(128, device="cuda")
        part = 64 if fault == "unwritten" else 128
        x[:part].copy_(host[:part])
        module.get_function(f"planted_{fault}")(x, y)
        torch.cuda.synchronize()
    print(f"{END} {time.monotonic()}", flush=True)


def chosen(given: argparse.Namespace) -> list[tuple[str, Path, Any]]:
    """(name, library, case), the first pattern of every kernel first."""
    import gpu_kernels
    import sanitized

    def place(name: str, patterns: Sequence[str]) -> int:
        return next((i for i, one in enumerate(patterns) if fnmatch.fnmatch(name, one)), -1)

    found: list[tuple[int, str, Path, Any]] = []
    for cases in gpu_kernels.collect(given.patterns).values():
        for kind, case in cases:
            name = f"{kind}/{case.name}"
            late = given.racecheck and place(name, sanitized.TOO_LONG) >= 0
            if case.verify is None:
                continue
            if not late and (at := place(case.name, sanitized.CHOSEN[kind])) >= 0:
                found.append((at, name, given.library, case))
            again = kind == "sparse_attention" and given.planted
            if again and (at := place(case.name, sanitized.UNSPLIT)) >= 0:
                found.append((at, f"{name}_unsplit", given.planted / "libunsplit.so", case))
    return [one[1:] for one in sorted(found, key=lambda one: one[0])]


def run_cases(given: argparse.Namespace) -> None:
    """In a child: the chosen cases of the kernels that the library has."""
    import torch
    import tvm_ffi

    for name, library, case in chosen(given)[given.skip :]:
        print(f"{MARK}{time.monotonic()} {name}", flush=True)
        inputs = case.inputs(0)
        outputs = [
            torch.empty(*one[:1], dtype=one[1], device="cuda") for one in case.outputs(inputs)
        ]
        function = tvm_ffi.load_module(str(library)).get_function(case.kernel)
        arguments = (*inputs, *outputs)
        case.call(function, *arguments) if case.call else function(*arguments)
        torch.cuda.synchronize()
        del inputs, outputs, arguments
    print(f"{END} {time.monotonic()}", flush=True)


def run_tool(given: argparse.Namespace, tool: str, what: str) -> dict[str, Any]:
    """One tool over the planted faults, or over the cases: findings and seconds by case."""
    start, found, ended = time.monotonic(), {}, False
    log = given.out / f"{tool}_{what}.txt"
    log.write_text("")
    while not ended:
        left = given.limit - (time.monotonic() - start)
        with log.open("ab") as file:
            at = file.tell()
            child = subprocess.Popen(
                command(given, tool, what, len(found)),
                env=os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                child.wait(max(left, 1))
            except subprocess.TimeoutExpired:
                left = 0
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        text = log.read_bytes()[at:].decode(errors="replace")
        cases, ended = read(text)
        found |= cases
        if left <= 0 or (not ended and not cases):
            break
    return {"tool": tool, "what": what, "ended": ended, "cases": found} | {
        "seconds": round(time.monotonic() - start, 1)
    }


def command(given: argparse.Namespace, tool: str, what: str, skip: int) -> list[str]:
    """The tool's command line around a child of this script."""
    words = [
        "compute-sanitizer",
        "--tool",
        tool,
        "--print-limit",
        "10000",
        "--show-backtrace",
        "no",
    ]
    if tool == "synccheck":
        words += ["--num-cuda-barriers", "65536"]
    if tool != "initcheck":
        words += ["--kernel-name", f"kns={KERNELS}"]
    words += [sys.executable, __file__, "--child", what, "--skip", str(skip), *given.patterns]
    words += ["--racecheck"] if tool == "racecheck" else []
    for name in ("library", "planted"):
        if getattr(given, name):
            words += [f"--{name}", str(getattr(given, name))]
    return words


def read(text: str) -> tuple[dict[str, dict[str, Any]], bool]:
    """Findings of a child's output by case, and whether it came to the end."""
    found: dict[str, dict[str, Any]] = {}
    blocks = text.split(MARK)
    for i, block in enumerate(blocks[1:], 1):
        head, _, body = block.partition("\n")
        began, name = head.split(" ", 1)
        after = blocks[i + 1] if i + 1 < len(blocks) else block.partition(END)[2]
        seconds = float(after.split()[0]) - float(began) if after.split() else -1.0
        reports = [one for one in body.split("========= \n") if FINDING.search(one)]
        ours = [one for one in reports if KERNELS in one or not WHERE.search(one)]
        found[name] = {"findings": len(ours), "seconds": round(seconds, 2)}
        if ours:
            found[name]["first"] = ours[0][:1500]
    return found, END in text


def main() -> int:
    """Planted faults first, then every case; the tools side by side."""
    parser = argparse.ArgumentParser()
    parser.add_argument("patterns", nargs="*")
    parser.add_argument("--build", type=Path)
    parser.add_argument("--library", type=Path)
    parser.add_argument("--planted", type=Path)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".build/gpu")))
    parser.add_argument("--tools", default=",".join(FAULTS))
    parser.add_argument("--limit", type=float, default=80.0, help="seconds per tool")
    parser.add_argument("--child", choices=["faults", "cases"])
    parser.add_argument("--skip", type=int, default=0, help="cases that a child leaves out")
    parser.add_argument("--racecheck", action="store_true", help="a child leaves out long cases")
    given = parser.parse_args()
    if given.build:
        build(given.build)
        return 0
    if given.child:
        run_faults(given) if given.child == "faults" else run_cases(given)
        return 0
    given.out.mkdir(parents=True, exist_ok=True)
    whats = (["faults"] if given.planted else []) + (["cases"] if given.library else [])
    jobs = [(tool, what) for tool in given.tools.split(",") for what in whats]
    with ThreadPoolExecutor(len(jobs)) as pool:
        results = list(pool.map(lambda job: run_tool(given, *job), jobs))
    (given.out / "gpu_sanitize.json").write_text(json.dumps(results, indent=1) + "\n")
    return report(results)


def report(results: list[dict[str, Any]]) -> int:
    """Print what was found; 1 if a fault was missed, a case has findings or was not reached."""
    failed = False
    for one in results:
        tool = one["tool"]
        found = {case: facts["findings"] for case, facts in one["cases"].items()}
        if one["what"] == "faults":
            missed = not found.get(FAULTS[tool])
            failed |= missed or found.get("none", 1) > 0
            print(f"{tool}: planted {FAULTS[tool]} {'MISSED' if missed else 'found'}; all: {found}")
            continue
        bad = {case: count for case, count in found.items() if count}
        failed |= bool(bad) or not one["ended"]
        end = "to the end" if one["ended"] else "NOT to the end"
        print(f"{tool}: {len(found)} cases, {len(bad)} with findings, {end}, {one['seconds']} s")
        for case, count in sorted(bad.items())[:40]:
            print(f"  {case}: {count}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
