"""What measuring a tuning folder finds, and its JSON: written as it is, read strictly."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from dsv4c.bench.results import Card, Time
from dsv4c.codegen.kernel import check_arch
from dsv4c.codegen.tuned import Values
from dsv4c.errors import DsvError
from dsv4c.tune.folder import Shape

SCHEMA = "dsv4c.tune.results/2"


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A kernel at T tokens: its time, or why it has none.

    Attributes:
        tokens: T.
        time: of a call, in a graph of calls that rotate through copies of the operands.
        problem: `other bits` than the present tile's, what the call raised, or how its process ended.
        beside: of a candidate with a time, that of the plan's kernel, in turns with it.
    """

    tokens: int
    time: Time | None = None
    problem: str = ""
    beside: Time | None = None


class CandidateRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A candidate at every T of its bucket."""

    name: str
    tile: Values
    measured: list[Measured]


class BucketRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bucket of a tuning folder (`dsv4c.tune.folder.Bucket`), measured.

    Attributes:
        present: the plan's kernel alone, at every T.
        candidates: in the order of the folder.
    """

    kernel: str
    kind: str
    shape: Shape
    most: int
    tile: Values
    table: Values
    origin: str
    present: list[Measured]
    candidates: list[CandidateRow]


class Results(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole run on one card."""

    schema: str
    dsv4c: str
    target: str
    model: str
    card: Card
    context: int
    buckets: list[BucketRow]


def encode(found: Results) -> bytes:
    """Indented JSON."""
    return msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n"


def read_results(path: Path) -> Results:
    """The results of `dsv4c tune measure`.

    Raises:
        DsvError: DSV101 if the file is no such result, a time in it is not positive, or a name in it
            cannot be printed, or a bucket is below 0; DSV302 for an unknown target.
    """
    try:
        read = msgspec.json.decode(path.read_bytes(), type=Results)
        if read.schema != SCHEMA:
            raise ValueError(f"schema {read.schema!r}")
        for name in (read.card.name, *(row.kernel for row in read.buckets)):
            if not name.isprintable():
                raise ValueError(f"the name {name!r}")
        for row in read.buckets:
            if row.most < 0:
                raise ValueError(f"a bucket of {row.kernel} of {row.most} tokens")
            for one in (*row.present, *(m for each in row.candidates for m in each.measured)):
                for time in (one.time, one.beside):
                    if time is not None and not 0 < time.low <= time.us <= time.high < math.inf:
                        raise ValueError(f"a time of {row.kernel} is {time}")
    except (OSError, ValueError) as error:
        raise DsvError(
            "DSV101",
            "the measured tiles cannot be read",
            where=str(path),
            expected=f"what `dsv4c tune measure` writes ({SCHEMA})",
            found=str(error),
        ) from error
    check_arch(read.target)
    return read
