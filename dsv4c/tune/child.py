"""The process that calls candidates: one that hangs, crashes or spoils memory ends it, not the run.

It is started anew behind the candidate that ended it (`dsv4c.tune.measure`), and builds the step
again. Every candidate must give the bits of the plan's kernel, on results filled with another byte;
then the plan's kernel must still give its own, so that a write out of bounds is found.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from dsv4c.bench.card import measure_card
from dsv4c.bench.results import Time
from dsv4c.bench.step import BenchStep
from dsv4c.bench.steps import input_sets
from dsv4c.bench.timing import Loop, time_beside
from dsv4c.errors import DsvError
from dsv4c.ir.graph import Node
from dsv4c.plan.plan import Plan, load_plan
from dsv4c.runtime.kernels import Kernel, KernelLibrary
from dsv4c.tune.folder import Bucket, Manifest, read_folder
from dsv4c.tune.jobs import Job, jobs_of, rows_of

OTHER_BITS = "other bits than the present tile's"
SPOILED = "spoiled the memory of others"


@dataclass(frozen=True, slots=True)
class Answer:
    """Of one job: a time, or a problem; `fatal` if the process ends with it.

    A candidate's time has that of the plan's kernel `beside` it.
    """

    time: Time | None
    problem: str = ""
    fatal: bool = False
    beside: Time | None = None


def serve(folder: Path, plan: Path, first: int, sender: Connection) -> None:
    """Send the card, then an answer for each job from number `first` on.

    Sends a DsvError instead if the folder or the plan does not load, or a step cannot be made.

    Args:
        folder: the tuning folder.
        plan: whose kernels they are.
        first: the number of a job of `jobs_of`; 0 measures the card too, else None is sent for it.
        sender: of a pipe to `dsv4c.tune.measure`.
    """
    # What is printed here must not get into the results on stdout.
    sys.stdout = sys.stderr
    try:
        _serve(folder, plan, first, sender)
    except DsvError as error:
        sender.send(error)
    sender.close()


def _serve(folder: Path, plan: Path, first: int, sender: Connection) -> None:
    read = read_folder(folder)
    jobs = jobs_of(read)
    sender.send(measure_card() if not first else None)
    torch.cuda.empty_cache()
    loaded = load_plan(plan)
    names = [one.name for bucket in read.buckets for one in bucket.candidates]
    library = KernelLibrary(folder / read.library, names)
    at: tuple[int, int] | None = None
    step, bench = None, None
    with torch.inference_mode():
        for job in jobs[first:]:
            if at is None or at[0] != job.tokens:
                step = bench = None
                torch.cuda.empty_cache()
                step = _step(loaded, read, job.tokens)
            if at != (job.tokens, job.bucket):
                bench = None
                torch.cuda.empty_cache()
                bench = _Bench(loaded, step, read.buckets[job.bucket])
            at = job.tokens, job.bucket
            assert bench is not None
            answer = bench.answer(job, library)
            sender.send(answer)
            if answer.fatal:
                return


def _step(plan: Plan, read: Manifest, tokens: int) -> BenchStep:
    sequences, each = rows_of(tokens, read.chunk)
    return BenchStep(plan, sequences, each, read.context)


class _Bench:
    """A kernel's operands at one T, and the bits that it makes of them."""

    def __init__(self, plan: Plan, step: BenchStep | None, bucket: Bucket) -> None:
        assert step is not None
        self._bucket = bucket
        self._present = plan.kernels()[bucket.kernel]
        used = [i for i, (node, _) in enumerate(step.nodes) if node.impl == bucket.kernel]
        self._node = step.nodes[used[0]][0]
        costs = [step.cost(i) for i in used]
        moved = sum(cost.read + cost.write for cost in costs) / len(used)
        self._sets: list[list[torch.Tensor]] = []
        for i in used:
            self._sets += input_sets(step.arguments(*step.nodes[i]), moved, len(used))
        self._bits = self._results(self._present, 0xFF)
        self._loop = self._calls(self._present)

    def answer(self, job: Job, library: KernelLibrary) -> Answer:
        """Check a kernel, then time it."""
        if job.candidate is None:
            return Answer(self._loop.time())
        kernel = library[self._bucket.candidates[job.candidate].name]
        try:
            wrong = any(not self._same(self._results(kernel, byte)) for byte in (0x7F, 0xFF))
            spoiled = not self._same(self._results(self._present, 0x00))
            if wrong or spoiled:
                return Answer(None, SPOILED if spoiled else OTHER_BITS, spoiled)
            time, beside = time_beside(self._calls(kernel), self._loop)
            return Answer(time, beside=beside)
        except Exception as error:  # whatever a kernel that was never run raises
            text = str(error).strip().splitlines()
            return Answer(None, text[0] if text else type(error).__name__, True)

    def _results(self, kernel: Kernel, byte: int) -> list[torch.Tensor]:
        """Bits of a kernel's results, which held `byte` before."""
        given = self._sets[0]
        results = results_of(self._node, given)
        for one in results:
            one.view(torch.uint8).fill_(byte)
        kernel(*given)
        torch.cuda.synchronize()
        return [one.clone() for one in results]

    def _same(self, results: Sequence[torch.Tensor]) -> bool:
        return all(
            torch.equal(a.view(torch.uint8), b.view(torch.uint8))
            for a, b in zip(results, self._bits, strict=True)
        )

    def _calls(self, kernel: Kernel) -> Loop:
        return Loop([partial(kernel, *one) for one in self._sets])


def results_of(node: Node, given: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """A node's results among its kernel's arguments: before its scratch, which is last."""
    end = len(given) - len(node.scratch)
    return list(given[end - len(node.outputs) : end])
