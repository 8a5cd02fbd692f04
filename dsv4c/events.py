"""The event log: what happened during a compile or a run, one JSON object per line.

Each line is flushed when it is written, so a killed process leaves a readable log. Every record
has `t`, the seconds since the log was opened, and `kind`. Phases may nest; each is charged only
the time that no inner phase took, so the summary adds up to the wall clock.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, TypeAlias

from dsv4c.errors import DsvError

Json: TypeAlias = "str | int | float | bool | Sequence[Json] | Mapping[str, Json] | None"

SCHEMA = "dsv4c.events/1"


class EventLog:
    """Append-only log of one operation.

    Phases and events come from the thread that opened the log.

    Args:
        path: file to append to, or None to keep the records in memory only.

    Attributes:
        records: what was written, in order.

    Raises:
        DsvError: DSV603, the file cannot be written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.records: list[dict[str, Json]] = []
        self._path = path
        self._start = time.perf_counter()
        self._self_seconds: dict[str, float] = {}
        self._inner_seconds: list[float] = []
        self._end: float | None = None
        self._file: IO[str] | None = None
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = path.open("a", encoding="utf-8")
            except OSError as error:
                raise _unwritable(path, error) from error
        self.event("log", schema=SCHEMA, time=_utc_now(), pid=os.getpid())

    def event(self, kind: str, **fields: Json) -> None:
        """Write one record; `t` and `kind` are added to `fields`."""
        record: dict[str, Json] = {"t": round(self.seconds, 6), "kind": kind, **fields}
        self.records.append(record)
        if self._file is None or self._path is None:
            return
        try:
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise _unwritable(self._path, error) from error

    @contextmanager
    def phase(self, name: str, **fields: Json) -> Generator[None]:
        """Time a part of the work under `name`; equal names add up.

        Writes `phase_begin` and `phase_end`; the latter has `seconds` (inner phases included) and
        `ok`, False where an exception left the phase.
        """
        self.event("phase_begin", name=name, **fields)
        begin = time.perf_counter()
        self._inner_seconds.append(0.0)
        ok = False
        try:
            yield
            ok = True
        finally:
            seconds = time.perf_counter() - begin
            own = seconds - self._inner_seconds.pop()
            self._self_seconds[name] = self._self_seconds.get(name, 0.0) + own
            if self._inner_seconds:
                self._inner_seconds[-1] += seconds
            self.event("phase_end", name=name, seconds=round(seconds, 6), ok=ok)

    @property
    def seconds(self) -> float:
        """Wall clock since the log was opened, up to its closing."""
        return (self._end or time.perf_counter()) - self._start

    def summary(self) -> list[tuple[str, float]]:
        """Seconds per finished phase in order of first end, then `other`; the sum is `seconds`."""
        phases = list(self._self_seconds.items())
        return [*phases, ("other", self.seconds - sum(seconds for _, seconds in phases))]

    def close(self) -> None:
        """Write the summary and stop the clock; further calls do nothing."""
        if self._end is not None:
            return
        self._end = time.perf_counter()
        phases = {name: round(seconds, 6) for name, seconds in self.summary()}
        self.event("summary", seconds=round(self.seconds, 6), phases=phases)
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self.event("error", type=type(error).__name__, message=str(error))
        self.close()


def read_events(path: Path) -> list[dict[str, Json]]:
    """The records of a log; a last line that a killed process left unfinished is dropped.

    Raises:
        DsvError: DSV231, the file is missing or is no event log.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        whole = lines if not lines or lines[-1].endswith("}") else lines[:-1]
        return [json.loads(line) for line in whole]
    except (OSError, ValueError) as error:
        raise DsvError(
            "DSV231", "the event log cannot be read", where=str(path), found=str(error)
        ) from error


def _utc_now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _unwritable(path: Path, error: OSError) -> DsvError:
    return DsvError(
        "DSV603",
        "the event log cannot be written",
        where=str(path),
        found=error.strerror or str(error),
        hint="free disk space or choose another place",
    )
