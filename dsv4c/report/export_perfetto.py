"""The compile as a Chrome JSON trace, for Perfetto: phases, passes and kernels, a track for each.

Slices of one track never overlap but nest. Kernels are compiled at the same time: each takes the
first free worker track.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Required, TypedDict

from dsv4c.events import Json

PHASES, PASSES, WORKERS = 1, 2, 10
_PID = 1
_HIDDEN = ("t", "kind", "name", "seconds")


class TraceEvent(TypedDict, total=False):
    """`ts` and `dur` are microseconds."""

    ph: Required[str]
    name: str
    cat: str
    ts: float
    dur: float
    pid: int
    tid: int
    s: str
    args: dict[str, Json]


class Trace(TypedDict):
    displayTimeUnit: str
    otherData: dict[str, str]
    traceEvents: list[TraceEvent]


def trace(events: Iterable[Mapping[str, Json]], label: str) -> Trace:
    """The trace of an event log.

    Args:
        events: records of `events.jsonl`.
        label: name of the process in the viewer.
    """
    tracks = _Tracks()
    for record in events:
        tracks.add(record)
    names = [_meta("process_name", 0, label)]
    names += [_meta("thread_name", tid, name) for tid, name in sorted(tracks.names.items())]
    return {
        "displayTimeUnit": "ms",
        "otherData": {"schema": "dsv4c.trace/1"},
        "traceEvents": [*names, *sorted(tracks.slices, key=lambda one: one.get("ts", 0.0))],
    }


class _Tracks:
    """Slices by track; a slice that ends at `t` begins `seconds` earlier, never inside another."""

    def __init__(self) -> None:
        self.names = {PHASES: "phases"}
        self.slices: list[TraceEvent] = []
        self._open: list[tuple[str, float, dict[str, Json]]] = []
        self._busy: dict[int, float] = {}

    def add(self, record: Mapping[str, Json]) -> None:
        kind, end = str(record["kind"]), _us(record["t"])
        args = {key: value for key, value in record.items() if key not in _HIDDEN}
        if kind == "phase_begin":
            self._open.append((str(record["name"]), end, args))
        elif kind == "phase_end" and self._open:
            name, begin, given = self._open.pop()
            self._slice(PHASES, name, kind[:5], begin, end, {**given, **args})
        elif kind == "pass":
            self.names[PASSES] = "passes"
            begin = max(end - _us(record["seconds"]), self._busy.get(PASSES, 0.0))
            self._busy[PASSES] = end
            self._slice(PASSES, str(record["name"]), kind, begin, end, args)
        elif kind == "kernel":
            begin = max(end - _us(record["seconds"]), 0.0)
            tid = WORKERS
            while self._busy.get(tid, 0.0) > begin:
                tid += 1
            self._busy[tid] = end
            self.names[tid] = f"kernels {tid - WORKERS + 1}"
            self._slice(tid, str(record["name"]), kind, begin, end, args)
        elif kind == "error":
            self.slices.append(
                {
                    "ph": "i",
                    "name": str(record.get("type", kind)),
                    "cat": kind,
                    "ts": round(end, 3),
                    "pid": _PID,
                    "tid": PHASES,
                    "s": "p",
                    "args": args,
                }
            )

    def _slice(
        self, tid: int, name: str, category: str, begin: float, end: float, args: dict[str, Json]
    ) -> None:
        self.slices.append(
            {
                "ph": "X",
                "name": name,
                "cat": category,
                "ts": round(begin, 3),
                "dur": round(max(end - begin, 0.0), 3),
                "pid": _PID,
                "tid": tid,
                "args": args,
            }
        )


def _us(seconds: Json) -> float:
    assert isinstance(seconds, int | float)
    return 1e6 * seconds


def _meta(kind: str, tid: int, name: str) -> TraceEvent:
    return {"ph": "M", "name": kind, "pid": _PID, "tid": tid, "args": {"name": name}}
