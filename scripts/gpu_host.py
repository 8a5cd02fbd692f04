"""Time what the host does for one decode step of a plan, on the GPU.

usage: gpu_host.py [--out DIR] [--sequences 1 64] PLAN

`call` is everything from ids to the launched graph: checks, slots, pages, staged inputs, launch.
`launch` is the decoder's part of it, `replay` the launch of the CUDA graph alone. The device is idle
before each, and not waited for after. Writes <out>/host.json, microseconds: median and quartiles.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))

CALLS, CONTEXT = 300, 512


def timed(call: Callable[[], object]) -> dict[str, float]:
    """Quartiles of the microseconds until `call` returns."""
    import torch

    found: list[float] = []
    for _ in range(CALLS):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        call()
        found.append((time.perf_counter() - begin) * 1e6)
    torch.cuda.synchronize()
    low, middle, high = statistics.quantiles(found[CALLS // 10 :], n=4, method="inclusive")
    return {"us": middle, "low": low, "high": high}


def measured(plan: Any, sequences: int) -> dict[str, Any]:
    """The figures of a step of so many sequences."""
    from dsv4c.runtime.batch import TokenBatch
    from dsv4c.runtime.context import fill_context

    session = plan.session(sequences, 2 * (CONTEXT + CALLS))
    slots = fill_context(session, sequences, CONTEXT)
    decoder, table = session.decoder, session.slots.block_table
    ids = [5] * sequences
    call = timed(lambda: session._launch(slots, ids))
    positions, pages = session.slots.advance(slots), session.slots.longest
    batch = TokenBatch.of(slots, positions, ids)._replace(version=session.slots.version)
    launch = timed(lambda: decoder.launch(batch, table, pages))
    graph = decoder.graph(sequences, pages)
    assert graph is not None
    return {"sequences": sequences, "call": call, "launch": launch, "replay": timed(graph.replay)}


def main() -> int:
    """Every batch size in turn."""
    parser = argparse.ArgumentParser()
    parser.add_argument("plan", type=Path)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".build/gpu")))
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 64])
    given = parser.parse_args()

    import torch

    from dsv4c.plan.plan import load_plan

    plan = load_plan(given.plan)
    nodes = sum(node.impl not in ("", "reference") for node in plan.graph.nodes)
    made: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "layers": plan.manifest.model.layers,
        "kernels": nodes,
        "steps": [measured(plan, sequences) for sequences in given.sequences],
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "host.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(made, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
