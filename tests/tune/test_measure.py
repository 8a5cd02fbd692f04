"""A run whose processes die: only the job under way is lost. No GPU: the process is a stand-in."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from dsv4c.bench.results import Card, Time
from dsv4c.errors import DsvError
from dsv4c.tune import child, measure
from dsv4c.tune.child import OTHER_BITS, SPOILED, Answer
from dsv4c.tune.folder import SCHEMA, Bucket, Candidate, Manifest
from dsv4c.tune.jobs import Job, jobs_of, rows_of

CARD = Card("NVIDIA H100", "2.11", 50_000_000, 3e12, 7e14, None)
Serve = Callable[[Path, Path, int, Connection], None]


def bucket(name: str, tokens: list[int], candidates: int) -> Bucket:
    made = [Candidate(f"{name}_{i}", {"a": i}, 32, 0, 0) for i in range(candidates)]
    return Bucket(name, f"{name}__key", "linears", {"depth": 8}, 8, tokens, {}, {}, "table", made)


READ = Manifest(
    *(SCHEMA, "0.1.0", "sm_90a", {}, "synthetic", 4095, 512),
    [bucket("a", [1, 8], 2), bucket("b", [8], 3)],
    *("library.so", True, {}),
)
JOBS = jobs_of(READ)


def test_the_order_of_jobs() -> None:
    assert JOBS[:3] == [Job(1, 0, None), Job(1, 0, 0), Job(1, 0, 1)]
    assert [(one.tokens, one.bucket) for one in JOBS[3:]] == [(8, 0)] * 3 + [(8, 1)] * 4


@pytest.mark.parametrize(
    ("tokens", "rows"),
    [(1, (1, 1)), (256, (256, 1)), (300, (1, 300)), (512, (1, 512)), (4096, (8, 512))],
)
def test_rows_of_a_step(tokens: int, rows: tuple[int, int]) -> None:
    assert rows_of(tokens, 512) == rows


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[Serve], list[Answer]]:
    """Run all jobs with a stand-in for the process that has the GPU."""
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: fork)
    monkeypatch.setattr(measure, "LOADING", 0.5)

    def whole(serve: Serve) -> list[Answer]:
        monkeypatch.setattr(child, "serve", serve)
        made = measure._Run(Path(), Path(), JOBS, 0.5, lambda phase, done, total: None)  # pyright: ignore[reportPrivateUsage]
        assert made.answer_all() == CARD
        return made.answers

    return whole


def timed(job: Job) -> Answer:
    time = Time(1.0 + job.tokens, 1.0, 99.0)
    return Answer(time, beside=None if job.candidate is None else Time(2.0, 1.0, 3.0))


def serve_with(deaths: dict[int, Callable[[Connection], None]]) -> Serve:
    def serve(folder: Path, plan: Path, first: int, sender: Connection) -> None:
        sender.send(None if first else CARD)
        for number, job in enumerate(JOBS[first:], first):
            if number in deaths:
                deaths[number](sender)
                return
            sender.send(timed(job))

    return serve


def test_a_whole_run(run: Callable[[Serve], list[Answer]]) -> None:
    assert run(serve_with({})) == [timed(job) for job in JOBS]


def test_only_what_dies_is_lost(run: Callable[[Serve], list[Answer]]) -> None:
    found = run(
        serve_with(
            {
                1: lambda sender: os._exit(9),
                4: lambda sender: time.sleep(60),
                5: lambda sender: sender.send(Answer(None, SPOILED, True)),
                8: lambda sender: sender.send(Answer(None, "illegal instruction", True)),
            }
        )
    )
    assert [one.problem for one in found] == [
        *("", "ended its process with 9", ""),
        *("", "hung", SPOILED),
        *("", "", "illegal instruction", ""),
    ]
    assert [one.time is None for one in found] == [bool(one.problem) for one in found]


@pytest.mark.parametrize("number", [0, 3])
def test_the_plans_own_kernel_must_run(number: int, run: Callable[[Serve], list[Answer]]) -> None:
    with pytest.raises(DsvError, match="DSV601: the plan's own kernel cannot be timed"):
        run(serve_with({number: lambda sender: os._exit(1)}))


@pytest.mark.parametrize("first", [True, False])
def test_what_the_process_raises_is_told(first: bool, run: Callable[[Serve], list[Answer]]) -> None:
    error = DsvError("DSV604", "a kernel is not in the library", expected="a_1")

    def serve(folder: Path, plan: Path, number: int, sender: Connection) -> None:
        sender.send(error if first else CARD)
        sender.send(error)

    with pytest.raises(DsvError, match="DSV604: a kernel is not in the library") as caught:
        run(serve)
    assert caught.value.expected == "a_1"


def test_a_process_tells_what_it_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", sys.stdout)  # the process has one of its own
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child.serve(tmp_path / "nothing", tmp_path, 0, sender)
    assert receiver.recv().code == "DSV231"


def test_rows_of_the_results() -> None:
    answers = {i: timed(job) for i, job in enumerate(JOBS)}
    answers[1] = Answer(None, OTHER_BITS)
    row = measure._row(0, READ.buckets[0], JOBS, answers)  # pyright: ignore[reportPrivateUsage]
    assert [one.tokens for one in row.present] == [1, 8]
    assert [(one.tokens, one.problem) for one in row.candidates[0].measured] == [
        (1, OTHER_BITS),
        (8, ""),
    ]
    assert [one.beside for one in row.candidates[0].measured] == [None, Time(2.0, 1.0, 3.0)]
    assert [one.beside for one in row.present] == [None, None]
