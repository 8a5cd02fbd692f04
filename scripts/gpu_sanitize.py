"""Run small cases of every kernel under compute-sanitizer: memcheck, racecheck, initcheck, synccheck.

usage: gpu_sanitize.py --build DIR [kind ...]            (here: all libraries of these kinds)
       gpu_sanitize.py --libraries DIR [--planted] [--out DIR] [--tools T,..] [--limit SECONDS]
                       [kind[/pattern] ...]              (on the GPU machine)

DIR gets libkernels.so; libtraced.so, the kernels for racecheck where this cannot follow them as they
are (tests/gpu/planted/traced.py says why); libunsplit.so, sparse attention as if no clusters shared
a token; libfaults.so, kernels with a planted fault each. The cases are those of
tests/gpu/sanitized.py. With --planted, every tool must first find the faults that were planted for
it. Only kernels of this repository are instrumented, except by initcheck, which must see who writes
the inputs. Each tool runs in a process of its own, all side by side; one that a fault ends goes on
with the next case in a new one. `late` is no tool: tests/gpu/late.py. Everything is in
<out>/gpu_sanitize.json; exit status 1 if a tool misses a fault, finds anything else, or does not
come to the end.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "gpu")]
os.environ.setdefault("TVM_FFI_DISABLE_TORCH_C_DLPACK", "1")

# What each tool has to find.
FAULTS = {
    "memcheck": ("outside",),
    "racecheck": ("race", "overtaken", "early", "refilled", "traced_overlap", "traced_hasty"),
    "initcheck": ("unwritten",),
    "synccheck": ("diverged", "unwaited"),
}
# Correct kernels, of which nothing may be reported, and such that racecheck cannot follow.
CORRECT = (
    "none",
    "arrive",
    "mbarrier",
    "rearrive",
    "bulk",
    "traced_pingpong",
    "traced_elected",
)
UNCLEAR = ("elected", "pingpong")
PLANTED = (*CORRECT, *UNCLEAR, *(fault for faults in FAULTS.values() for fault in faults))
MARK, END = "### case ", "### end"
TOO_EARLY = "Error: Race between kernels"
KERNELS = "kernel_cutlass"  # how the names of compiled kernels begin
FINDING = re.compile(
    r"Invalid |Error: Race|Warning: Race|Uninitialized |Barrier error|Divergent|Malformed|Unsupported"
    r"|Insufficient|hit cuda|were not printed|dropped|overflow"
)

WHERE = re.compile(r" at [A-Za-z_]")  # reports of other kernels


def build(folder: Path, kinds: list[str]) -> None:
    """Compile the libraries of these kinds."""
    from cases_sparse_attention import KIND as SPARSE
    from planted.traced import needs_trace, traced

    from dsv4c.codegen.build import build_kernels
    from dsv4c.codegen.kernel import KernelSource
    from dsv4c.codegen.link import link_library
    from dsv4c.codegen.render import render
    from dsv4c.codegen.tiles.sparse_attention import SPARSE_ATTENTION

    def followed(source: KernelSource) -> KernelSource:
        return replace(source, body=traced(source.kind, source.body))

    def variants(kind: str) -> list[KernelSource]:
        module = importlib.import_module(f"cases_{kind}")
        found = [render(kind, params, "sm_90a") for params in module.variants("sm_90a")]
        return list({source.name: source for source in found}.values())

    def planted(file: str, fault: str) -> KernelSource:
        text = (ROOT / "tests" / "gpu" / "planted" / file).read_text(encoding="utf-8")
        body = re.sub('FAULT = ".*"', f'FAULT = "{fault}"', text, count=1)
        return KernelSource(f"planted_{fault}", "planted", "sm_90a", "", body, {})

    faults = [planted("late.py", fault) for fault in ("late", "waiting", "unwaiting")]
    for fault in PLANTED:
        source = planted("faults.py", fault.removeprefix("traced_"))
        traces = fault.startswith("traced_")
        faults.append(replace(followed(source), name=f"planted_{fault}") if traces else source)
    kernels = [source for kind in kinds for source in variants(kind)]
    libraries = {
        "faults": faults,
        "kernels": kernels,
        "traced": [followed(source) for source in kernels if needs_trace(source.name)],
    }
    if SPARSE in kinds:
        SPARSE_ATTENTION["sm_90a"] = replace(SPARSE_ATTENTION["sm_90a"], splits=())
        libraries["unsplit"] = [followed(source) for source in variants(SPARSE)]
    folder.mkdir(parents=True, exist_ok=True)
    for name, sources in libraries.items():
        if sources:
            entries = build_kernels(sources, progress=lambda *item: print(*item, flush=True))
            link_library([entry.object for entry in entries], folder / f"lib{name}.so")


def run_faults(given: argparse.Namespace) -> None:
    """In a child: every planted kernel once."""
    import torch
    import tvm_ffi

    module = tvm_ffi.load_module(str(given.libraries / "libfaults.so"))
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
    from planted.traced import needs_trace

    def place(name: str, patterns: Sequence[str]) -> int:
        return next((i for i, one in enumerate(patterns) if fnmatch.fnmatch(name, one)), -1)

    race = given.child == "races"
    found: list[tuple[int, str, Path, Any]] = []
    for cases in gpu_kernels.collect(given.patterns).values():
        for kind, case in cases:
            name = f"{kind}/{case.name}"
            if case.verify is None or (race and place(name, sanitized.TOO_LONG) >= 0):
                continue
            library = "traced" if race and needs_trace(case.kernel) else "kernels"
            if (at := place(case.name, sanitized.CHOSEN[kind])) >= 0:
                found.append((at, name, given.libraries / f"lib{library}.so", case))
            again = race and kind == "sparse_attention"
            if again and (at := place(case.name, sanitized.UNSPLIT)) >= 0:
                found.append((at, f"{name}_unsplit", given.libraries / "libunsplit.so", case))
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


def run_late(given: argparse.Namespace) -> None:
    """In a child, without a tool: each case with inputs that the kernel before it writes late."""
    import late
    import torch
    import tvm_ffi

    planted = tvm_ffi.load_module(str(given.libraries / "libfaults.so")).get_function
    slow = planted("planted_late")

    def overtakes(name: str) -> bool:
        quick = planted(f"planted_{name}")
        for _ in range(2):  # a first launch waits until its code is loaded
            x, y, z = (torch.full((256,), i, dtype=torch.uint8, device="cuda") for i in (1, 0, 0))
            torch.cuda.synchronize()
            slow(x, y)
            quick(y, z)
            torch.cuda.synchronize()
        return not torch.equal(x, z)

    tests: list[tuple[str, Callable[[], object]]] = [
        (name, partial(overtakes, name)) for name in ("waiting", "unwaiting")
    ]
    for name, library, case in chosen(given):
        kind = name.partition("/")[0]
        if late.applies(kind, case.name):
            function = tvm_ffi.load_module(str(library)).get_function(case.kernel)
            tests.append((name, partial(late.differences, kind, case, function, slow)))
    for name, test in tests[given.skip :]:
        print(f"{MARK}{time.monotonic()} {name}", flush=True)
        if test():
            print(f"{TOO_EARLY} at {KERNELS}", flush=True)
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
    words = ["compute-sanitizer", "--tool", tool]
    words += ["--print-limit", "10000", "--show-backtrace", "no"]
    if tool == "synccheck":
        words += ["--num-cuda-barriers", "65536"]
    if tool != "initcheck":
        words += ["--kernel-name", f"kns={KERNELS}"]
    words = [] if tool == "late" else words
    child = {"racecheck": "races", "late": "late"}.get(tool, what) if what == "cases" else what
    words += [sys.executable, __file__, "--child", child, "--skip", str(skip), *given.patterns]
    words += ["--libraries", str(given.libraries)]
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
    parser.add_argument("--libraries", type=Path)
    parser.add_argument("--planted", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".build/gpu")))
    parser.add_argument("--tools", default=",".join((*FAULTS, "late")))
    parser.add_argument("--limit", type=float, default=80.0, help="seconds per tool")
    parser.add_argument("--child", choices=["faults", "cases", "races", "late"])
    parser.add_argument("--skip", type=int, default=0, help="cases that a child leaves out")
    given = parser.parse_args()
    if given.build:
        build(given.build, given.patterns)
        return 0
    if given.child:
        {"faults": run_faults, "late": run_late}.get(given.child, run_cases)(given)
        return 0
    given.out.mkdir(parents=True, exist_ok=True)
    whats = (["faults"] if given.planted else []) + (["cases"] if given.patterns else [])
    jobs = [(tool, what) for tool in given.tools.split(",") for what in whats]
    jobs = [job for job in jobs if job != ("late", "faults")]
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
            missed = [fault for fault in FAULTS[tool] if not found.get(fault)]
            wrong = [name for name in CORRECT if found.get(name, 1)]
            failed |= bool(missed) or bool(wrong)
            print(f"{tool}: missed {missed}, reports correct ones {wrong}; all: {found}")
            continue
        if tool == "late":
            missed = not found.pop("unwaiting", 0)
            failed |= missed
            print(f"late: planted unwaiting {'MISSED' if missed else 'found'}")
        bad = {case: count for case, count in found.items() if count}
        failed |= bool(bad) or not one["ended"]
        end = "to the end" if one["ended"] else "NOT to the end"
        print(f"{tool}: {len(found)} cases, {len(bad)} with findings, {end}, {one['seconds']} s")
        for case, count in sorted(bad.items())[:40]:
            print(f"  {case}: {count}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
