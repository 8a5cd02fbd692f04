"""Measuring a tuning folder: results checked, then times, in processes that may die."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path

import dsv4c
from dsv4c.bench.card import require_gpu
from dsv4c.bench.results import Card
from dsv4c.errors import DsvError
from dsv4c.plan.plan import Plan, load_plan
from dsv4c.tune import child
from dsv4c.tune.child import Answer
from dsv4c.tune.folder import PLAN, Bucket, Manifest, read_folder
from dsv4c.tune.jobs import Job, jobs_of
from dsv4c.tune.results import SCHEMA, BucketRow, CandidateRow, Measured, Results

Progress = Callable[[str, int, int], None]
LOADING = 120.0
"""Seconds that a process may take to load the plan and build a step."""


def measure_folder(
    folder: Path, plan: Path | None = None, limit: float = 20.0, report: Progress | None = None
) -> Results:
    """Check and time every candidate on this machine's GPU.

    Args:
        folder: of `dsv4c tune build`.
        plan: that it was made for, where it is not in the folder.
        limit: seconds that one candidate may take.
        report: called with (phase, done, total).

    Raises:
        DsvError: DSV231 to DSV233, the folder or the plan, or another GPU than they are for; DSV101,
            no plan; DSV242, DSV602, a step is too long or too large; DSV601, no GPU, or the plan's own
            kernels do not run; DSV604, a library does not load or lacks a kernel.
    """
    read = read_folder(folder)
    where = _plan_of(folder, read, plan)
    loaded = load_plan(where)
    _require_kernels(loaded, read)
    require_gpu("tune measure", str(folder), read.target)
    loaded.device()
    jobs = jobs_of(read)
    run = _Run(folder, where, jobs, limit, report or (lambda phase, done, total: None))
    card = run.answer_all()
    answers = dict(enumerate(run.answers))
    rows = [_row(at, bucket, jobs, answers) for at, bucket in enumerate(read.buckets)]
    return Results(SCHEMA, dsv4c.__version__, read.target, read.model, card, read.context, rows)


def _plan_of(folder: Path, read: Manifest, plan: Path | None) -> Path:
    if plan is not None:
        return plan
    if read.plan:
        return folder / PLAN
    raise DsvError(
        "DSV101",
        "the tuning folder was made for a plan that is not in it",
        where=str(folder),
        hint="name the plan with --plan",
    )


def _require_kernels(plan: Plan, read: Manifest) -> None:
    """Raise DsvError DSV233 unless the plan has the very kernels that candidates were made for."""
    keys = {kernel.name: kernel.cache_key for kernel in plan.manifest.kernels}
    for bucket in read.buckets:
        if keys.get(bucket.kernel) != bucket.cache_key:
            raise DsvError(
                "DSV233",
                "the plan and the tuning folder do not belong together",
                where=str(plan.path),
                expected=f"kernel {bucket.cache_key}",
                found=keys.get(bucket.kernel, "no kernel of this name"),
                hint="make the tuning folder again, of this plan",
            )


class _Run:
    """Starts processes until every job has an answer."""

    def __init__(
        self, folder: Path, plan: Path, jobs: list[Job], limit: float, report: Progress
    ) -> None:
        self._given = (folder, plan)
        self._jobs, self._limit, self._report = jobs, limit, report
        self._card: Card | None = None
        self.answers: list[Answer] = []

    def answer_all(self) -> Card:
        while len(self.answers) < len(self._jobs):
            self._process()
        assert self._card is not None
        return self._card

    def _process(self) -> None:
        """One process, and what it answers until its end."""
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(
            target=child.serve, args=(*self._given, len(self.answers), sender), daemon=True
        )
        process.start()
        sender.close()
        began = len(self.answers)
        try:
            card = _received(receiver, LOADING)
            self._card = card if isinstance(card, Card) else self._card
            while len(self.answers) < len(self._jobs):
                # Before its first answer of a step, the process makes the step.
                loads = len(self.answers) == began or self._new_step()
                answer = _received(receiver, self._limit + (LOADING if loads else 0.0))
                assert isinstance(answer, Answer)
                self._add(answer)
                if self.answers[-1].fatal:
                    return
        except EOFError:
            process.join(5.0)
            hung = process.is_alive()
            self._ended("hung" if hung else f"ended its process with {process.exitcode}")
        finally:
            process.kill()
            process.join()
            receiver.close()

    def _new_step(self) -> bool:
        jobs, at = self._jobs, len(self.answers)
        return (jobs[at].tokens, jobs[at].bucket) != (jobs[at - 1].tokens, jobs[at - 1].bucket)

    def _add(self, answer: Answer) -> None:
        self.answers.append(answer)
        self._report("candidates", len(self.answers), len(self._jobs))

    def _ended(self, how: str) -> None:
        """Charge an end without an answer to the job that was under way."""
        if self._card is None or self._jobs[len(self.answers)].candidate is None:
            raise DsvError(
                "DSV601",
                "the plan's own kernel cannot be timed",
                where=str(self._given[1]),
                found=f"it {how}",
                hint="dsv4c bench PLAN times the plan alone; see stderr for what the process said",
            )
        self._add(Answer(None, how, True))


def _received(receiver: Connection, limit: float) -> object:
    """What the process sends next.

    Raises:
        EOFError: it ended, or sent nothing in time.
        DsvError: that it sent.
    """
    if not receiver.poll(limit):
        raise EOFError
    found: object = receiver.recv()
    if isinstance(found, DsvError):
        raise found
    return found


def _row(at: int, bucket: Bucket, jobs: list[Job], answers: Mapping[int, Answer]) -> BucketRow:
    mine = [(i, job) for i, job in enumerate(jobs) if job.bucket == at]

    def measured(candidate: int | None) -> list[Measured]:
        return [
            Measured(job.tokens, answers[i].time, answers[i].problem, answers[i].beside)
            for i, job in mine
            if job.candidate == candidate
        ]

    rows = [
        CandidateRow(one.name, one.tile, measured(i)) for i, one in enumerate(bucket.candidates)
    ]
    return BucketRow(
        *(bucket.kernel, bucket.kind, bucket.shape, bucket.most, bucket.tile, bucket.table),
        *(bucket.origin, measured(None), rows),
    )
