"""Run small cases of every kernel under compute-sanitizer: memcheck, racecheck, initcheck, synccheck.

usage: gpu_sanitize.py --build DIR                       (here: kernels with a planted fault each)
       gpu_sanitize.py --library LIB --planted DIR [--out DIR] [--tools T,..] [--each N]
                       [--bytes N] [--limit SECONDS] [pattern ...]      (on the GPU machine)

Inputs are made on the CPU and copied, so that only the kernels run on the GPU; outputs are left as
they are allocated, which initcheck needs. A finding is named after the case it came from. First every
tool must find the fault that was planted for it. Everything is in <out>/gpu_sanitize.json; exit
status 1 if a tool misses its fault or finds anything else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
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
MARK = "### case "


def build(folder: Path) -> None:
    """Compile the kernels with planted faults into <folder>/libfaults.so."""
    from dsv4c.codegen.build import build_kernels
    from dsv4c.codegen.kernel import KernelSource
    from dsv4c.codegen.link import link_library

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
        for fault in (*CORRECT, *FAULTS.values())
    ]
    entries = build_kernels(sources)
    folder.mkdir(parents=True, exist_ok=True)
    link_library([entry.object for entry in entries], folder / "libfaults.so")


def faults(library: Path) -> None:
    """In a child: every planted kernel once."""
    import torch
    import tvm_ffi

    module = tvm_ffi.load_module(str(library))
    for fault in (*CORRECT, *FAULTS.values()):
        print(f"{MARK}{fault}", flush=True)
        host = torch.arange(128, dtype=torch.float32)
        x, y = torch.empty(128, device="cuda"), torch.empty(128, device="cuda")
        part = 64 if fault == "unwritten" else 128
        x[:part].copy_(host[:part])
        module.get_function(f"planted_{fault}")(x, y)
        torch.cuda.synchronize()


def cases(given: argparse.Namespace) -> None:
    """In a child: small cases of every kernel of the library, a few each."""
    import gpu_kernels
    import torch
    import tvm_ffi

    module = tvm_ffi.load_module(str(given.library))
    for kernel, found in gpu_kernels.collect(given.patterns).items():
        try:
            function = module.get_function(kernel)
        except Exception:
            continue
        done = 0
        for kind, case in found:
            if done == given.each:
                break
            if case.verify is None:
                continue
            host = case.inputs(done)
            size = sum(one.nbytes for one in host)
            if size > given.bytes:
                continue
            print(f"{MARK}{kind}/{case.name}", flush=True)
            inputs = [one.to("cuda") for one in host]
            outputs = [
                torch.empty(*one[:1], dtype=one[1], device="cuda") for one in case.outputs(host)
            ]
            call = (lambda *a, c=case, f=function: c.call(f, *a)) if case.call else function
            call(*inputs, *outputs)
            torch.cuda.synchronize()
            done += 1


def run_tool(given: argparse.Namespace, tool: str, what: str) -> dict[str, Any]:
    """One tool over the planted faults, or over the cases: findings by case."""
    command = ["compute-sanitizer", "--tool", tool, "--print-limit", "200"]
    if tool == "synccheck":
        command += ["--num-cuda-barriers", "65536"]
    command += [sys.executable, __file__, "--child", what, *given.patterns]
    command += ["--library", str(given.library), "--planted", str(given.planted)]
    command += ["--each", str(given.each), "--bytes", str(given.bytes)]
    env = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "DSV4C_CASE_DEVICE": "cpu"}
    try:
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=given.limit, check=False
        )
        text, ended = done.stdout + done.stderr, done.returncode
    except subprocess.TimeoutExpired as late:
        text, ended = (late.stdout or b"").decode(errors="replace"), -1
    (given.out / f"{tool}_{what}.txt").write_text(text[-4_000_000:])
    found: dict[str, int] = {}
    case = "start"
    for line in text.splitlines():
        if line.startswith(MARK):
            case = line.removeprefix(MARK)
            found[case] = 0
        elif line.startswith("=========") and _is_finding(line):
            found[case] = found.get(case, 0) + 1
    return {"tool": tool, "what": what, "exit": ended, "cases": found}


def _is_finding(line: str) -> bool:
    words = (
        "Invalid",
        "Error: Race",
        "Warning: Race",
        "Uninitialized",
        "Barrier error",
        "Divergent",
    )
    return any(word in line for word in words)


def main() -> int:
    """Planted faults first, then every case; the tools side by side."""
    parser = argparse.ArgumentParser()
    parser.add_argument("patterns", nargs="*")
    parser.add_argument("--build", type=Path)
    parser.add_argument("--library", type=Path)
    parser.add_argument("--planted", type=Path)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".build/gpu")))
    parser.add_argument("--tools", default=",".join(FAULTS))
    parser.add_argument("--each", type=int, default=3, help="cases per kernel")
    parser.add_argument("--bytes", type=int, default=64_000_000, help="largest inputs of a case")
    parser.add_argument("--limit", type=float, default=200.0, help="seconds per tool")
    parser.add_argument("--child", choices=["faults", "cases"])
    given = parser.parse_args()
    if given.build:
        build(given.build)
        return 0
    if given.child:
        faults(given.planted / "libfaults.so") if given.child == "faults" else cases(given)
        return 0
    given.out.mkdir(parents=True, exist_ok=True)
    jobs = [(tool, what) for tool in given.tools.split(",") for what in ("faults", "cases")]
    with ThreadPoolExecutor(len(jobs)) as pool:
        results = list(pool.map(lambda job: run_tool(given, *job), jobs))
    (given.out / "gpu_sanitize.json").write_text(json.dumps(results, indent=1) + "\n")
    return report(results)


def report(results: list[dict[str, Any]]) -> int:
    """Print what was found; 1 if a fault was missed or a case has findings."""
    failed = 0
    for one in results:
        tool, found = one["tool"], one["cases"]
        if one["what"] == "faults":
            seen = {fault for fault, count in found.items() if count}
            missed = FAULTS[tool] not in seen
            failed |= missed or found.get("none", 1) > 0
            limits = [name for name in CORRECT if found.get(name)]
            if limits:
                print(f"{tool}: reports correct handovers as well: {', '.join(limits)}")
            print(f"{tool}: planted {FAULTS[tool]} {'MISSED' if missed else 'found'}; all: {found}")
            continue
        bad = {case: count for case, count in found.items() if count}
        failed |= bool(bad) or not found
        print(f"{tool}: {len(found)} cases, {len(bad)} with findings, exit {one['exit']}")
        for case, count in sorted(bad.items())[:20]:
            print(f"  {case}: {count}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
