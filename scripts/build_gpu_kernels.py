"""Cross-compile the kernels of every `tests/gpu/cases_<kind>.py` into one library. Needs no GPU.

usage: build_gpu_kernels.py [--arch sm_90a] [--out .build/gpu] [--timed] [kind ...]

With --timed only the kernels of cases that are timed.

Writes <out>/libkernels.so and <out>/kernels.json (names, parameters, registers, spills, smem).
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "gpu")]


def main() -> None:
    """Render, compile, link."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kinds", nargs="*")
    parser.add_argument("--arch", default="sm_90a")
    parser.add_argument("--out", type=Path, default=ROOT / ".build" / "gpu")
    parser.add_argument("--timed", action="store_true", help="only kernels that a case times")
    given = parser.parse_args()

    from dsv4c.codegen.build import build_kernels
    from dsv4c.codegen.link import link_library
    from dsv4c.codegen.render import render

    start = time.monotonic()
    files = sorted((ROOT / "tests" / "gpu").glob("cases_*.py"))
    sources, timed = [], set[str]()
    for file in files:
        module = importlib.import_module(file.stem)
        if not given.kinds or module.KIND in given.kinds:
            sources += [render(module.KIND, p, given.arch) for p in module.variants(given.arch)]
            timed |= {case.kernel for case in module.cases() if case.bench is not None}
    if given.timed:
        sources = [source for source in sources if source.name in timed]
    unique = list({source.name: source for source in sources}.values())
    entries = build_kernels(unique, progress=lambda *item: print(*item, flush=True))
    given.out.mkdir(parents=True, exist_ok=True)
    link_library([entry.object for entry in entries], given.out / "libkernels.so")
    names = {
        entry.name: {"arch": entry.arch, "params": dict(source.params), "seconds": entry.seconds}
        | dataclasses.asdict(entry.resources)
        for entry, source in zip(entries, unique, strict=True)
    }
    (given.out / "kernels.json").write_text(json.dumps(names, indent=1) + "\n")
    for name, facts in names.items():
        print(f"{name:60s} registers {facts['registers']} spills {facts['spills']}")
    print(f"{len(names)} kernels in {time.monotonic() - start:.1f} s -> {given.out}")


if __name__ == "__main__":
    main()
