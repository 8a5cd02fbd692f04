"""Compare every node of plans with its float64 reference, on the GPU, at true width.

usage: gpu_layers.py [--out DIR] [--limit SECONDS] PLAN ...

For plans of `dsv4c compile flash|pro --synthetic --layers N`: no checkpoint is needed. Each plan runs
in a child process, one after another, over one sequence: a chunk that crosses 128 tokens, one that is
not checked, after which an indexer has more entries than it chooses, decode steps that cross a
page, a last chunk. The table comes last; everything is in
<out>/gpu_layers.json. Exit status 1 if a bound is exceeded.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsv4c.ir.graph import Graph
    from dsv4c.runtime.check import NodeCheck

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
# Tokens of each step, and whether its nodes are checked.
STEPS = ((130, True), (4092, False), *4 * ((1, True),), (127, True))


def check_plan(path: Path) -> dict[str, Any]:
    """Worst error / bound by what ran the node, over all checked steps."""
    import random

    import torch

    from dsv4c.plan.plan import load_plan
    from dsv4c.runtime.check import Checker

    start = time.monotonic()
    plan = load_plan(path)
    draw = random.Random(0)
    ids = [draw.randrange(plan.manifest.model.vocab_size) for _ in range(sum(n for n, _ in STEPS))]
    session = plan.session(max_sequences=2, max_tokens=8192)
    torch.cuda.synchronize()
    made = time.monotonic()
    checker, slot, done = Checker(plan.graph), session.open(), 0
    for count, checked in STEPS:
        part = ids[done : done + count]
        session.prefill(slot, part, watcher=checker if checked else None)
        done += count
    return {
        "device": torch.cuda.get_device_name(),
        "by": _worst(plan.graph, checker.checks),
        "seconds": {"load": made - start, "check": time.monotonic() - made},
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
    }


def _worst(graph: Graph, checks: Sequence[NodeCheck]) -> dict[str, dict[str, Any]]:
    """By kernel, or kind of reference: nodes checked, worst ratio, and what is beyond its bound."""
    kinds = {node.name: node.kind for node in graph.nodes}
    worst: dict[str, dict[str, Any]] = {}
    for one in checks:
        by = one.impl if one.impl != "reference" else f"reference {one.kind}"
        entry = worst.setdefault(
            by, {"kind": kinds[one.node], "nodes": 0, "ratio": 0.0, "wrong": []}
        )
        entry["nodes"] += 1
        entry["ratio"] = max(entry["ratio"], one.ratio)
        if not one.ok:
            entry["wrong"].append(f"{one.node} step {one.step} {one.output} {one.ratio:.3g}")
    return worst


def main() -> int:
    """Every plan in a child, then the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("plans", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".build/gpu")))
    parser.add_argument("--limit", type=float, default=120.0, help="seconds per plan")
    parser.add_argument("--child", action="store_true")
    given = parser.parse_args()
    if given.child:
        print(json.dumps(check_plan(given.plans[0])))
        return 0
    found: dict[str, Any] = {}
    for path in given.plans:
        command = [sys.executable, __file__, "--child", str(path)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=given.limit, check=False
            )
            text = done.stderr.strip() or "no message"
            found[path.name] = (
                json.loads(done.stdout.splitlines()[-1])
                if done.returncode == 0
                else {"error": text.splitlines()[-3:]}
            )
        except subprocess.TimeoutExpired:
            found[path.name] = {"error": [f"longer than {given.limit:g} s"]}
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "gpu_layers.json").write_text(json.dumps(found, indent=1) + "\n")
    return report(found)


def report(found: dict[str, Any]) -> int:
    """Print the table; 1 if anything is wrong."""
    failed = 0
    for name, result in found.items():
        if "error" in result:
            failed = 1
            print(f"{name}: {' | '.join(result['error'])}")
            continue
        times = ", ".join(f"{what} {value:.1f} s" for what, value in result["seconds"].items())
        print(f"{name}: {times}, peak {result['peak_gb']:.1f} GB")
        for by, entry in sorted(result["by"].items()):
            failed |= bool(entry["wrong"])
            wrong = " ".join(entry["wrong"][:3])
            print(f"  {by:60s} {entry['nodes']:4d} nodes  worst {entry['ratio']:.3g} {wrong}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
