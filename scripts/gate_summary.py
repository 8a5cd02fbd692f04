"""Sum up the gates of runs of `scripts/gpu_kernels.py`: docs/perf/gates.json.

usage: gate_summary.py RUN.json ... [--out docs/perf/gates.json]

By kind and kernel: how many cases were checked, how many gates failed, the worst ratio of an error to
its bound. A later run takes the place of an earlier one case by case.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Read, sum up, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "perf" / "gates.json")
    given = parser.parse_args()
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in given.runs]
    found = {"device": runs[-1]["device"], "torch": runs[-1]["torch"], "kinds": summed(runs)}
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for kind, kernels in found["kinds"].items():
        cases, failed = (sum(one[name] for one in kernels.values()) for name in ("cases", "failed"))
        print(f"{kind:24s} {len(kernels):3d} kernels {cases:5d} cases {failed:3d} failed gates")


def summed(runs: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """By kind and kernel."""
    last = {one["case"]: one for run in runs for one in run["results"] if "us" not in one}
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for case, one in sorted(last.items()):
        if "gates" not in one and "error" not in one:
            continue
        kind = case.partition("/")[0]
        entry = found.setdefault(kind, {}).setdefault(
            one["kernel"], {"cases": 0, "failed": 0, "worst": 0.0}
        )
        entry["cases"] += 1
        entry["failed"] += "error" in one
        for gate in one.get("gates", []):
            entry["failed"] += not gate["ok"]
            entry["worst"] = max(entry["worst"], round(gate["ratio"], 4))
    return found


if __name__ == "__main__":
    main()
