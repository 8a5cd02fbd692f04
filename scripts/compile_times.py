"""Time the compiling of every kernel of a plan, and its loading, on this machine without a GPU.

usage: compile_times.py [--out docs/perf] [MODEL ...]          (MODEL: flash, pro or a config.json)

Each model is compiled for sm_90a with synthetic weights by `dsv4c compile`, twice: with an empty
kernel cache and with the one this left. Then a fresh process reads the plan, checks the hash of every
file, opens the library and finds every kernel in it. Everything is in <out>/compile_times.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOAD = """
import json, sys, time
began = time.perf_counter()
from dsv4c.plan.plan import load_plan
kernels = load_plan(sys.argv[1]).kernels()
print(json.dumps({"kernels": len(kernels), "seconds": time.perf_counter() - began}))
"""

Result = dict[str, Any]


def main() -> None:
    """Compile, load, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=["flash", "pro"])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "perf")
    given = parser.parse_args()
    found = {"cores": os.cpu_count(), "models": {one: measured(one) for one in given.models}}
    path = given.out / "compile_times.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(path.read_text(encoding="utf-8"), end="")


def measured(model: str) -> Result:
    """Seconds of the kernels and of the whole compile, cold and warm; of loading."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "DSV4C_CACHE_DIR": f"{folder}/cache",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }

        def python(*words: str) -> Result:
            command = [sys.executable, *words]
            run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
            return json.loads(run.stdout)

        plan = f"{folder}/plan"
        words = ("compile", model, "--synthetic", "-o", plan, "--target", "sm_90a", "--json")
        runs = {name: python("-m", "dsv4c", *words) for name in ("cold", "warm")}
        return {name: _seconds(run) for name, run in runs.items()} | {
            "load": python("-c", LOAD, plan)
        }


def _seconds(run: Result) -> Result:
    phases = {one["phase"]: one["seconds"] for one in run["phases"]}
    made = sum(one["status"] == "compiled" for one in run["kernels"])
    return {"compiled": made, "kernels": phases["kernels"], "total": run["seconds"]}


if __name__ == "__main__":
    main()
