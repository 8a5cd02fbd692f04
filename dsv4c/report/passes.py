"""What the passes did: each rule where it applied, and where it refused, with its reason.

A rule that looked at nothing, or did not run at all, is a warning: the model may have changed under
it. Every file `fuse_*.py` of `dsv4c.passes` is a pass of that name.

Reads the records of an event log, so the view is the same for a plan and for a compile under way.
`record_pass` writes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import msgspec

import dsv4c
from dsv4c.events import EventLog, Json
from dsv4c.report.selection import Selection

if TYPE_CHECKING:
    from dsv4c.passes.base import PassRecord


class RemarkView(TypedDict):
    rule: str
    status: str
    node: str
    layer: int | None
    text: str


class PassView(TypedDict):
    index: int
    name: str
    modified: bool
    nodes_before: int
    nodes_after: int
    seconds: float
    candidates: int | None


class RuleView(TypedDict):
    rule: str
    applied: int
    refused: int


class PassesView(TypedDict):
    passes: list[PassView]
    rules: list[RuleView]
    remarks: list[RemarkView]
    warnings: list[str]


def record_pass(log: EventLog, record: PassRecord) -> None:
    """Write one pass and its remarks to an event log."""
    log.event(
        "pass",
        index=record.index,
        name=record.name,
        modified=record.modified,
        nodes_before=record.nodes_before,
        nodes_after=record.nodes_after,
        seconds=round(record.seconds, 6),
        candidates=record.candidates,
    )
    for remark in record.remarks:
        log.event(
            "remark",
            rule=remark.rule,
            status=remark.status,
            node=remark.node,
            layer=remark.layer,
            text=remark.text,
        )


def passes_view(events: Iterable[Mapping[str, Json]], selection: Selection) -> PassesView:
    """Passes in order, remarks counted by rule, and the remarks on the selected nodes."""
    records = list(events)
    ran = [{"candidates": None, **r} for r in records if r["kind"] == "pass"]
    passes = msgspec.convert(ran, list[PassView])
    remarks = msgspec.convert([r for r in records if r["kind"] == "remark"], list[RemarkView])
    chosen = [r for r in remarks if selection.takes(r["layer"], r["node"], r["rule"])]
    rules, warnings = _count(chosen), _warnings(passes)
    return {"passes": passes, "rules": rules, "remarks": chosen, "warnings": warnings}


def fusion_rules() -> list[str]:
    """Names of the fusions that there are."""
    assert dsv4c.__file__
    return sorted(path.stem for path in Path(dsv4c.__file__).parent.glob("passes/fuse_*.py"))


def _warnings(passes: list[PassView]) -> list[str]:
    names = {one["name"] for one in passes}
    never = [f"rule {name} never ran" for name in fusion_rules() if name not in names]
    idle = [one["name"] for one in passes if one["candidates"] == 0]
    return [*never, *(f"rule {name} looked at no node: its anchor is nowhere" for name in idle)]


def _count(remarks: list[RemarkView]) -> list[RuleView]:
    rules: dict[str, RuleView] = {}
    for remark in remarks:
        rule = rules.setdefault(
            remark["rule"], {"rule": remark["rule"], "applied": 0, "refused": 0}
        )
        rule["applied" if remark["status"] == "applied" else "refused"] += 1
    return list(rules.values())
