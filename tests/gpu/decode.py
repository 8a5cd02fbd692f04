"""Decode steps of a plan on the GPU: graphs against eager, poison, batches, and what a step does.

usage: decode.py PLAN [--out DIR] [--processes N]

The functions are also the tests of `test_session.py`; alone it writes <out>/decode.json. Processes
repeat one step 100 times each: every repeat of every process must have the same bits.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "runtime")]

import isolation  # noqa: E402
from sessions import LENGTHS, eager, filled, same, states, steps, tokens  # noqa: E402

from dsv4c.plan.plan import Plan, load_plan  # noqa: E402
from dsv4c.runtime.batch import TokenBatch  # noqa: E402
from dsv4c.runtime.decode import Decoder  # noqa: E402
from dsv4c.runtime.memory import session_bytes  # noqa: E402
from dsv4c.runtime.session import Session  # noqa: E402

# For graphs, torch keeps the seed and the offset of its generator on the device, an i64 each.
CAPTURED = 16


def one_more(session: Session, slots: Sequence[int]) -> TokenBatch:
    """A token for each of these slots."""
    return TokenBatch.of(slots, [session.length(slot) for slot in slots], [5] * len(slots))


def every_bucket_is_captured(plan: Plan) -> dict[str, Any]:
    start = time.monotonic()
    session = plan.session(max_sequences=8, max_tokens=2048)
    found = [(one.T, one.P) for one in session.decoder.captured]
    assert found == [(t, p) for t in (1, 2, 4, 8) for p in (8, 16)], found
    return {"captured": found, "seconds": time.monotonic() - start}


def graphs_equal_eager(plan: Plan) -> dict[str, Any]:
    sessions = filled(plan, LENGTHS), eager(filled(plan, LENGTHS))
    a, b = (steps(one) for one in sessions)
    assert bool(a.isfinite().all())
    assert same(a, b), float((a - b).abs().max())
    for name, state in states(sessions[0]).items():
        assert same(state, states(sessions[1])[name]), name
    return {"steps": len(a)}


def poison_changes_nothing(plan: Plan) -> dict[str, Any]:
    wanted = steps(filled(plan, LENGTHS))
    wrong = {
        hex(byte): float((steps(filled(plan, LENGTHS, byte)) - wanted).abs().max())
        for byte in (0xFF, 0x7F, 0x00)
    }
    assert all(one == 0 for one in wrong.values()), wrong
    return wrong


def alone_equals_batch(plan: Plan) -> dict[str, Any]:
    """Each sequence alone against itself in a batch of others; the largest difference by bits."""
    together = steps(filled(plan, LENGTHS))
    found: dict[str, Any] = {}
    for slot in range(len(LENGTHS)):
        session = filled(plan, LENGTHS)
        for other in range(len(LENGTHS)):
            if other != slot:
                session.close(other)
        alone = torch.stack([session.decode([slot], [7 * i + slot]) for i in range(4)])[:, 0]
        found[f"slot {slot}"] = float((alone - together[:, slot]).abs().max())
    assert all(one == 0 for one in found.values()), found
    return found


def copies_are_equal(plan: Plan) -> dict[str, Any]:
    """Five copies of one sequence in a batch."""
    session = plan.session(max_sequences=8, max_tokens=2048)
    ids = tokens(plan, 131, 0)
    slots = [session.open() for _ in range(5)]
    for slot in slots:
        session.prefill(slot, ids)
    for i in range(3):
        logits = session.decode(slots, [i] * 5)
        assert all(same(logits[0], one) for one in logits)
    return {}


def repeats_are_equal(plan: Plan) -> dict[str, Any]:
    first = steps(filled(plan, LENGTHS))
    for _ in range(5):
        assert same(first, steps(filled(plan, LENGTHS)))
    return {}


def a_step_does_nothing_else(plan: Plan) -> dict[str, Any]:
    """No torch op, no allocation, no synchronisation between ids and logits of a graph's step."""
    import traps

    session = filled(plan, LENGTHS)
    slots = sorted(session.slots.lengths)
    steps(session, 1)
    batch = one_more(session, slots)
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.inference_mode(), traps.Ops() as ops:
            session.decoder.launch(batch, session.slots.block_table, 3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    session.decoder.logits(len(batch.slots))
    after = torch.cuda.memory_stats()
    assert not ops.seen, ops.seen
    names = ("allocation.all.allocated", "segment.all.allocated", "num_alloc_retries")
    assert [before[name] for name in names] == [after[name] for name in names]
    return {}


def only_references_do_more(plan: Plan) -> dict[str, Any]:
    """An eager step: two copies, and what reference nodes do."""
    import traps

    session = eager(filled(plan, LENGTHS))
    steps(session, 1)
    batch = one_more(session, sorted(session.slots.lengths))
    if plan.reference_nodes:
        return {"reference_nodes": plan.reference_nodes}
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    with torch.inference_mode(), traps.Ops() as ops:
        session.decoder.launch(batch, session.slots.block_table, 3)
    assert ops.seen == traps.COPIES, ops.seen
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
    return {"reference_nodes": 0}


def peak_is_what_was_computed(plan: Plan) -> dict[str, Any]:
    """Bytes on the device of a second session, through prefill and decode, against `session_bytes`."""
    plan.session(max_sequences=1, max_tokens=128)  # weights and kernels stay
    gc.collect()
    before = torch.cuda.memory_stats()["requested_bytes.all.current"]
    torch.cuda.reset_peak_memory_stats()
    session = filled(plan, LENGTHS)
    steps(session)
    peak = torch.cuda.memory_stats()["requested_bytes.all.peak"] - before
    needed = session_bytes(session.executor.graph, session.slots.pages)
    computed = needed["states"] + needed["arena"] + needed["inputs"]
    assert peak == computed + CAPTURED, f"{peak} bytes, not {computed} + {CAPTURED}: {needed}"
    return {"computed": computed, "peak": peak}


def _replay_us(session: Session, rows: int) -> float:
    decoder: Decoder = session.decoder
    batch = one_more(session, range(rows))
    decoder.launch(batch, session.slots.block_table, 3)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    graph = decoder._graphs[decoder.sizes(rows, 3)]  # pyright: ignore[reportPrivateUsage]
    begin.record()
    for _ in range(50):
        graph.replay()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 20


def times(plan: Plan) -> dict[str, Any]:
    """Microseconds of a replayed step, of an eager one and of a whole `advance` call, by rows."""
    session, found = filled(plan, [40] * 8), dict[str, Any]()
    for rows in (1, 2, 8):
        found[f"replay_us_{rows}"] = _replay_us(session, rows)
        start = time.perf_counter()
        for _ in range(20):
            session.advance(list(range(rows)), [3] * rows)
        found[f"decode_us_{rows}"] = (time.perf_counter() - start) / 20 * 1e6
    eager(session)
    start = time.perf_counter()
    for _ in range(10):
        session.advance([0], [3])
    found["eager_us_1"] = (time.perf_counter() - start) / 10 * 1e6
    return found


def digest_of_repeats(plan: Plan, count: int = 100) -> str:
    """SHA-256 of a step's logits; raises AssertionError if a repeat of the step has other bits.

    A step that is run again at the same positions writes the same states.
    """
    session = filled(plan, LENGTHS)
    slots = sorted(session.slots.lengths)
    first: torch.Tensor | None = None
    for _ in range(count):
        logits = session.decode(slots, [11 + slot for slot in slots])
        first = logits if first is None else first
        assert torch.equal(first.view(torch.int32), logits.view(torch.int32))
        for slot in slots:
            session.slots.lengths[slot] -= 1
    assert first is not None
    return hashlib.sha256(first.numpy().tobytes()).hexdigest()


def processes_agree(path: Path, count: int) -> dict[str, Any]:
    """`digest_of_repeats` in fresh processes."""
    command = [sys.executable, __file__, str(path), "--digest"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    digests = [run.communicate()[0].strip().splitlines()[-1:] for run in runs]
    assert all(run.returncode == 0 for run in runs)
    assert len({*map(tuple, digests)}) == 1, digests
    return {"processes": count, "repeats": 100, "digest": digests[0][0]}


CHECKS: tuple[Callable[[Plan], dict[str, Any]], ...] = (
    every_bucket_is_captured,
    graphs_equal_eager,
    poison_changes_nothing,
    copies_are_equal,
    repeats_are_equal,
    a_step_does_nothing_else,
    only_references_do_more,
    peak_is_what_was_computed,
    alone_equals_batch,
    *isolation.CHECKS,
    times,
)


def main() -> int:
    """Every check; the errors of those that fail."""
    parser = argparse.ArgumentParser()
    parser.add_argument("plan", type=Path)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".build/gpu")))
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--digest", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    plan, found, failed = load_plan(given.plan), dict[str, Any](), 0
    if given.digest:
        print(digest_of_repeats(plan))
        return 0

    def fresh_processes(plan: Plan) -> dict[str, Any]:
        return processes_agree(plan.path, given.processes)

    for check in (*CHECKS, fresh_processes):
        try:
            found[check.__name__] = check(plan)
        except Exception as error:  # the others still run
            failed += 1
            found[check.__name__] = {"error": f"{type(error).__name__}: {error}"[:2000]}
        print(check.__name__, json.dumps(found[check.__name__])[:600], flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "decode.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
