"""Winners of a measured tuning folder -> the data files that kernels take their tiles from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from dsv4c.bench.results import Time
from dsv4c.codegen.spaces import MODULES, refusal
from dsv4c.codegen.tuned import Entry, Timed, decode, encode, entries
from dsv4c.errors import DsvError
from dsv4c.files import write_whole
from dsv4c.tune.results import BucketRow, CandidateRow, Results

LEAST = 0.01
"""A win is at least this share of the present tile's time."""
OPEN = 256
"""T that a bucket without an end must have been measured at."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a bucket.

    Attributes:
        row: the bucket.
        best: the candidate that is taken, or None for the present tile.
        times: of the best, else of the candidate that came closest; empty if none has times.
        why: one clause.
    """

    row: BucketRow
    best: CandidateRow | None
    times: list[Timed]
    why: str


def verdicts(found: Results) -> list[Verdict]:
    """Of each bucket.

    A candidate is taken if at no T of the bucket it is slower than the present tile beyond the
    spread, and at one at least it is faster beyond the spread and by `LEAST`: the quartiles of both
    do not overlap. Of several, the one with the largest gain over all T. None is taken for a bucket
    whose upper half was not measured: few tokens say little of many. One that this version's kernel
    may not have is not taken.

    Raises:
        DsvError: DSV101, a kind of tile that this version does not have.
    """
    for kind in (row.kind for row in found.buckets):
        if kind not in MODULES:
            known = ", ".join(MODULES)
            raise DsvError("DSV101", "no such kind of tile", expected=known, found=kind)
    return [_verdict(row) for row in found.buckets]


def _verdict(row: BucketRow) -> Verdict:
    tokens = {one.tokens for one in row.present if one.time is not None}
    timed = [
        one for one in row.candidates if all(each.time and each.beside for each in one.measured)
    ]
    if not tokens or not timed:
        return Verdict(row, None, [], "no candidate ran" if tokens else "the kernel has no times")
    faster = [one for one in timed if _wins(one, tokens)]
    refused = {one.name: refusal(row.kind, one.tile, row.shape) for one in faster}
    taken = [one for one in faster if refused[one.name] is None]
    best = max(taken or faster or timed, key=_gain)
    times = [
        Timed(tokens, round(time.us, 3), round(beside.us, 3))
        for tokens, time, beside in _pairs(best)
    ]
    if faster and not taken:
        return Verdict(
            row, None, times, f"faster, but no tile of this version: {refused[best.name]}"
        )
    if taken and max(tokens) < (row.most / 2 or OPEN):
        return Verdict(row, None, times, f"faster, but measured at T = {max(tokens)} at most")
    if taken:
        return Verdict(row, best, times, "faster beyond the spread")
    return Verdict(row, None, times, "no candidate is faster beyond the spread")


def _pairs(one: CandidateRow) -> Iterator[tuple[int, Time, Time]]:
    """T, the candidate's time, that of the present tile beside it."""
    for each in one.measured:
        if each.time is not None and each.beside is not None:
            yield each.tokens, each.time, each.beside


def _wins(one: CandidateRow, tokens: set[int]) -> bool:
    pairs = list(_pairs(one))
    if {each for each, _, _ in pairs} != tokens:
        return False
    lost = any(time.low > beside.high for _, time, beside in pairs)
    return not lost and any(
        time.high < beside.low and time.us < (1 - LEAST) * beside.us for _, time, beside in pairs
    )


def _gain(one: CandidateRow) -> float:
    """Sum of log(present / candidate)."""
    return sum(math.log(beside.us / time.us) for _, time, beside in _pairs(one))


def apply_results(found: Results, into: Path | None = None, dry_run: bool = False) -> list[Verdict]:
    """Write the winners into data files, one per kind of tile; other entries there stay.

    Args:
        found: of `measure_folder`.
        into: folder of the files; that of this installation by default.
        dry_run: raise what would be raised before the first file is written, and write none.

    Raises:
        DsvError: DSV101, as `verdicts`, or a file there is none of dsv4c; DSV603, a file cannot be
            written.
    """
    folder = into or Path(str(resources.files("dsv4c.codegen.tiles") / "data"))
    result = verdicts(found)
    texts: dict[Path, bytes | None] = {}
    for kind in sorted({one.row.kind for one in result}):
        path = folder / f"{kind}.json"
        old = decode(path.read_bytes(), kind) if path.is_file() else ()
        new = _merged(old, found, [one for one in result if one.row.kind == kind])
        if new != list(old):
            texts[path] = encode(kind, new) if new else None
    if not dry_run:
        for path, text in texts.items():
            _write(path, text)
        entries.cache_clear()
    return result


def _merged(old: Sequence[Entry], found: Results, result: Sequence[Verdict]) -> list[Entry]:
    kept = {_key(one): one for one in old}
    for one in result:
        row = one.row
        key = _key(Entry(found.target, row.shape, row.most, row.tile, row.table, "", []))
        # The table was edited since the entry was measured, or its own tile is the fastest again.
        if key in kept and (kept[key].beats != row.table or _is_table(one)):
            del kept[key]
        if one.best is not None and not _is_table(one):
            facts = (found.card.name, one.times)
            kept[key] = Entry(found.target, row.shape, row.most, one.best.tile, row.table, *facts)
    return list(kept.values())


def _is_table(one: Verdict) -> bool:
    return one.best is not None and one.best.tile == one.row.table


def _key(one: Entry) -> tuple[str, str, int]:
    return one.arch, repr(sorted(_plain(one))), one.most


def _plain(one: Entry) -> Iterator[tuple[str, str]]:
    for name, size in one.shape.items():
        yield name, str(list(size)) if isinstance(size, tuple | list) else str(size)


def _write(path: Path, text: bytes | None) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            path.unlink(missing_ok=True)
            return
    except OSError as error:
        raise DsvError(
            "DSV603",
            "the measured tiles cannot be written",
            where=str(path),
            found=error.strerror or str(error),
            hint="name a folder with --into",
        ) from error
    write_whole(path, text)
