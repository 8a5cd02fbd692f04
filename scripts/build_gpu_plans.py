"""Compile a model for the GPU and for the CPU, for `tests/gpu` on a machine without a compiler.

usage: build_gpu_plans.py [--model examples/tiny-dsv4-nvfp4] [--target sm_90a] [--out .build/gpu]

Writes <out>/plans/<target>, <out>/plans/cpu, <out>/eval.txt, and <out>/tune: tiles to measure.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import dsv4c
from dsv4c.tune.build import Wanted, build_folder

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Two compiles, and a few candidates for tiles."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, default=ROOT / "examples" / "tiny-dsv4-nvfp4")
    parser.add_argument("--target", default="sm_90a")
    parser.add_argument("--out", type=Path, default=ROOT / ".build" / "gpu")
    given = parser.parse_args()
    for target in (given.target, "cpu"):
        plan = dsv4c.compile(given.model, given.out / "plans" / target, target=target)
        kernels = len(plan.manifest.kernels)
        print(f"{plan.path.name}: {kernels} kernels, {plan.reference_nodes} reference nodes")
        if target != "cpu":
            made, kinds = plan.manifest, ("linears", "mhc_seam")
            wanted = Wanted((1, 8), 300, kinds, most=1)
            build_folder(given.out / "tune", lambda folder, made=made: made, wanted)
    shutil.copyfile(given.model / "eval.txt", given.out / "eval.txt")


if __name__ == "__main__":
    main()
