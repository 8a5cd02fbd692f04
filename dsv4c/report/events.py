"""The event log of a compile: what happened when, and how the time was spent."""

from __future__ import annotations

from typing import TypedDict

from dsv4c.events import Json
from dsv4c.report.selection import Selection
from dsv4c.report.subject import Subject

NAMES = ("name", "node", "rule", "kind")


class EventView(TypedDict):
    """`seconds` since the log was opened; `fields` are the rest of the record."""

    seconds: float
    kind: str
    fields: dict[str, Json]


class PhaseView(TypedDict):
    phase: str
    seconds: float


class EventsView(TypedDict):
    events: list[EventView]
    phases: list[PhaseView]


def events_view(subject: Subject, selection: Selection) -> EventsView:
    """The selected records in order, and the phases of a plan, which add up to its wall clock."""
    chosen = [one for one in subject.events if _takes(selection, one)]
    phases = subject.manifest.phases if subject.manifest is not None else {}
    return {
        "events": [
            {
                "seconds": float(str(one["t"])),
                "kind": str(one["kind"]),
                "fields": {k: v for k, v in one.items() if k not in ("t", "kind")},
            }
            for one in chosen
        ],
        "phases": [{"phase": name, "seconds": spent} for name, spent in phases.items()],
    }


def _takes(selection: Selection, record: dict[str, Json]) -> bool:
    layer = record.get("layer")
    names = [str(record[name]) for name in NAMES if name in record]
    return selection.takes(layer if isinstance(layer, int) else None, *names)
