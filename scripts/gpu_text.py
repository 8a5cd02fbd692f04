"""Greedy text of the GPU plan beside the CPU plan, loss on the evaluation text, node checks.

usage: gpu_text.py [--plans .build/gpu/plans] [--tokens 64] [--out DIR]

Run it on a machine with a GPU, on what `scripts/build_gpu_plans.py` made. Prints a table; writes
<out>/gpu_text.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "gpu")]

import greedy  # noqa: E402

from dsv4c.evaluate import evaluate  # noqa: E402
from dsv4c.plan.plan import load_plan  # noqa: E402
from dsv4c.runtime.check import check  # noqa: E402
from dsv4c.tokenizer import Tokenizer  # noqa: E402


def main() -> None:
    """Compare, evaluate, check."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--plans", type=Path, default=ROOT / ".build" / "gpu" / "plans")
    parser.add_argument("--target", default="sm_90a")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".build/gpu")))
    given = parser.parse_args()
    gpu, cpu = load_plan(given.plans / given.target), load_plan(given.plans / "cpu")
    found: dict[str, object] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}

    ids = Tokenizer.load(gpu.path).encode((given.plans.parent / "eval.txt").read_text("utf-8"))
    checks = check(gpu.session(max_sequences=2, max_tokens=2048), ids[:1500])
    worst: dict[str, float] = {}
    for one in checks:
        worst[one.kind] = max(worst.get(one.kind, 0.0), one.ratio)
    found["checked_nodes"], found["worst_ratio"] = len(checks), worst
    for kind, ratio in sorted(worst.items(), key=lambda item: -item[1]):
        print(f"  {kind:32s} worst ratio to its bound {ratio:.3f}")

    for name, plan in (("gpu", gpu), ("cpu", cpu)):
        began = time.perf_counter()
        session = plan.session(max_sequences=1, max_tokens=1024)
        nats = evaluate(session, ids[:5121], 1024).nats_per_token
        found[f"nats_per_token_{name}"] = nats
        print(f"  {name} plan: {nats:.4f} nats per token, {time.perf_counter() - began:.1f} s")

    found["greedy"] = greedy.summary(list(greedy.compare(cpu, gpu, given.tokens)))
    print(json.dumps(found["greedy"], indent=1))
    (given.out / "gpu_text.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
