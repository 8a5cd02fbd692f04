"""Compare every node of plans with its float64 reference, on the GPU, at true width.

usage: gpu_layers.py [--out DIR] [--tokens 200] [--limit SECONDS] PLAN ...

For plans of `dsv4c compile flash|pro --synthetic --layers N`: no checkpoint is needed. Each plan runs
in a child process: a prefill of the tokens, then decode steps, all nodes of the last of each checked.
The table comes last; everything is in <out>/gpu_layers.json. Exit status 1 if a bound is exceeded.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]


def check_plan(path: Path, tokens: int) -> dict[str, Any]:
    """Worst error / bound by what ran the node, in prefill and in decode."""
    import random

    from dsv4c.plan.plan import load_plan
    from dsv4c.runtime.check import check

    start = time.monotonic()
    plan = load_plan(path)
    draw = random.Random(0)
    ids = [draw.randrange(plan.manifest.model.vocab_size) for _ in range(tokens)]
    loaded = time.monotonic()
    session = plan.session(max_sequences=2, max_tokens=max(1024, 2 * tokens))
    made = time.monotonic()
    worst: dict[str, dict[str, Any]] = {}
    for one in check(session, ids):
        node = next(node for node in plan.graph.nodes if node.name == one.node)
        by = node.impl if node.impl != "reference" else f"reference {node.kind}"
        entry = worst.setdefault(by, {"nodes": 0, "ratio": 0.0, "wrong": []})
        entry["nodes"] += 1
        entry["ratio"] = max(entry["ratio"], one.ratio)
        if not one.ok:
            entry["wrong"].append(f"{one.node} {one.ratio:.3g}")
    done = time.monotonic()
    return {
        "by": worst,
        "seconds": {"load": loaded - start, "session": made - loaded, "check": done - made},
    }


def main() -> int:
    """Every plan in a child, then the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("plans", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".build/gpu")))
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--limit", type=float, default=120.0, help="seconds per plan")
    parser.add_argument("--child", action="store_true")
    given = parser.parse_args()
    if given.child:
        print(json.dumps(check_plan(given.plans[0], given.tokens)))
        return 0
    found: dict[str, Any] = {}
    for path in given.plans:
        command = [sys.executable, __file__, "--child", "--tokens", str(given.tokens), str(path)]
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
        print(f"{name}: {times}")
        for by, entry in sorted(result["by"].items()):
            failed |= bool(entry["wrong"])
            wrong = " ".join(entry["wrong"][:3])
            print(f"  {by:60s} {entry['nodes']:4d} nodes  worst {entry['ratio']:.3g} {wrong}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
