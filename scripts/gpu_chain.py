"""Time every node of a decode step inside the step's CUDA graph, and by itself, on the GPU.

usage: gpu_chain.py [--out DIR] [--sequences 1 64] [--context 32768] [--timeline] PLAN

For plans of `dsv4c compile flash|pro --synthetic --layers N`: no checkpoint and no prefill is
needed. `in step` is what a node adds to a graph of the nodes before it, `alone` its time with no
other kernel beside it and nothing of its operands in the L2. Prints a table and writes
<out>/chain_<plan>_<sequences>.json; with --timeline also when each kernel of a replay began and
ended, as CUPTI saw it. DSV4C_PDL=0 times the same step with kernels that do not overlap.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))

if TYPE_CHECKING:
    from dsv4c.bench.step import BenchStep
    from dsv4c.bench.timing import Call

ROUNDS, ALONE = 15, 4


def clocks() -> dict[str, str]:
    """SM and memory clock, power, temperature and what holds the clock down, at this moment."""
    fields = "clocks.sm,clocks.mem,power.draw,temperature.gpu,clocks_event_reasons.active"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    values = done.stdout.strip().splitlines()[:1]
    return dict(zip(fields.split(","), values[0].split(", "), strict=False)) if values else {}


def alone_times(step: BenchStep) -> list[float]:
    """Microseconds of every node with no other kernel beside it and its operands in memory."""
    from dsv4c.bench.timing import captured, replay_rounds, spread

    def repeated(index: int | None) -> None:
        for _ in range(ALONE):
            step.flush()
            if index is not None:
                step.alone(index)

    replays = [captured(partial(repeated, i)).replay for i in (None, *range(len(step.nodes)))]
    empty, *times = replay_rounds(replays, ROUNDS)
    return [spread([(b - a) / ALONE for a, b in zip(empty, one, strict=True)]).us for one in times]


def traced(call: Call) -> list[tuple[str, float, float]]:
    """Name, begin and end in microseconds of every kernel that `call` runs."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize()
    events = [one for one in profiler.events() or () if one.device_type.name == "CUDA"]
    ranges = sorted((one.time_range.start, one.time_range.end, one.name) for one in events)
    return [(name, begin - ranges[0][0], end - ranges[0][0]) for begin, end, name in ranges]


def measured(plan: Any, sequences: int, context: int, timeline: bool) -> dict[str, Any]:
    """The figures of one step."""
    import torch

    from dsv4c.bench.card import copy_rate
    from dsv4c.bench.step import BenchStep, added_times, layer_spans
    from dsv4c.bench.timing import captured

    rate = copy_rate()
    with torch.inference_mode():
        step = BenchStep(plan, sequences, 1, context)
        count = len(step.nodes)
        between = added_times(step, range(count + 1), ROUNDS)
        alone = alone_times(step)
        trace = traced(captured(step.prefix(count)).replay) if timeline else []
    floors = [(cost.read + cost.write) / rate * 1e6 for cost in map(step.cost, range(count))]
    spans = layer_spans([node for node, _ in step.nodes])
    return {
        "sequences": sequences,
        "context": context,
        "copy_rate": rate,
        "pdl": os.environ.get("DSV4C_PDL", "1"),
        "clocks": clocks(),
        "step_us": between(0, count).us,
        "nodes": [
            {
                "node": node.name,
                "layer": node.origin.layer,
                "kernel": node.impl,
                "us": between(i, i + 1).us,
                "alone_us": alone[i],
                "floor_us": floors[i],
            }
            for i, (node, _) in enumerate(step.nodes)
        ],
        "layers": {
            str(layer): {
                "us": between(first, end).us,
                "floor_us": _moved(step.region(first, end)) / rate * 1e6,
            }
            for layer, (first, end) in spans.items()
        },
        "timeline": trace,
    }


def _moved(cost: Any) -> float:
    return cost.read + cost.write


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    print(f"step {found['step_us']:.1f} us, copy {found['copy_rate'] / 1e12:.3f} TB/s")
    for one in found["nodes"]:
        print(
            f"  {one['layer']!s:>4} {one['kernel']:72.72s} in step {one['us']:8.2f} "
            f"alone {one['alone_us']:8.2f} floor {one['floor_us']:8.2f}"
        )
    for layer, one in found["layers"].items():
        ratio = one["us"] / one["floor_us"]
        print(f"  layer {layer}: {one['us']:.1f} us, {ratio:.2f} of its floor")


def main() -> int:
    """Every batch size in turn."""
    parser = argparse.ArgumentParser()
    parser.add_argument("plan", type=Path)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".build/gpu")))
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--context", type=int, default=32768)
    parser.add_argument("--timeline", action="store_true")
    given = parser.parse_args()

    from dsv4c.plan.plan import load_plan

    plan = load_plan(given.plan)
    given.out.mkdir(parents=True, exist_ok=True)
    for sequences in given.sequences:
        found = measured(plan, sequences, given.context, given.timeline)
        path = given.out / f"chain_{given.plan.name}_{sequences}.json"
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(path.name)
        show(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
