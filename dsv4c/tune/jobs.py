"""The order in which a tuning folder is measured: the same in every process of a run."""

from __future__ import annotations

from dataclasses import dataclass

from dsv4c.tune.folder import Manifest

MOST_SEQUENCES = 256


@dataclass(frozen=True, slots=True)
class Job:
    """One kernel at T tokens; no candidate: the plan's own."""

    tokens: int
    bucket: int
    candidate: int | None


def jobs_of(read: Manifest) -> list[Job]:
    """By T, then by bucket: the plan's kernel, then the candidates."""
    return [
        Job(tokens, at, candidate)
        for tokens in read.steps
        for at, bucket in enumerate(read.buckets)
        if tokens in bucket.tokens
        for candidate in (None, *range(len(bucket.candidates)))
    ]


def rows_of(tokens: int, chunk: int) -> tuple[int, int]:
    """Sequences of a step of T tokens, and tokens of each: one each, or whole chunks of a prefill."""
    if tokens <= MOST_SEQUENCES:
        return tokens, 1
    each = min(tokens, chunk)
    return tokens // each, each
