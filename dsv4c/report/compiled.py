"""What a compile did: fusions, kernels with their resources, and where the time went."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast

import msgspec

from dsv4c.events import Json, read_events
from dsv4c.report.kernels import kernels_view
from dsv4c.report.passes import RuleView, passes_view
from dsv4c.report.selection import Selection

if TYPE_CHECKING:
    from dsv4c.plan.plan import Plan

EVERYTHING = Selection()


class BuiltKernel(TypedDict):
    name: str
    nodes: int
    registers: int
    spills: int
    smem: int
    status: str
    seconds: float


class Phase(TypedDict):
    phase: str
    seconds: float


class Compiled(TypedDict):
    plan: str
    target: str
    fusions: list[RuleView]
    kernels: list[BuiltKernel]
    reference_nodes: int
    phases: list[Phase]
    seconds: float


def compiled(plan: Plan, seconds: float) -> Compiled:
    """The account of the compile that made `plan`.

    Args:
        plan: fresh from `dsv4c.compile`.
        seconds: wall clock of the whole command. What the event log does not cover (imports,
            start-up) becomes the phase `start`, so the phases add up to it.
    """
    events = read_events(plan.path / "events.jsonl")
    view = kernels_view(plan.graph, EVERYTHING)
    built = {str(event["name"]): event for event in events if event["kind"] == "kernel"}
    kernels = [
        _kernel(plan.path, kernel["name"], kernel["nodes"], built.get(kernel["name"], {}))
        for kernel in view["kernels"]
    ]
    return {
        "plan": str(plan.path),
        "target": plan.target,
        "fusions": passes_view(events, EVERYTHING)["rules"],
        "kernels": kernels,
        "reference_nodes": view["reference_nodes"],
        "phases": _phases(events, seconds),
        "seconds": seconds,
    }


def _kernel(plan: Path, name: str, nodes: int, event: dict[str, Json]) -> BuiltKernel:
    meta = json.loads((plan / "kernels" / name / "meta.json").read_text(encoding="utf-8"))
    resources = cast("dict[str, int]", meta["resources"])
    return {
        "name": name,
        "nodes": nodes,
        "registers": resources["registers"],
        "spills": resources["spills"],
        "smem": resources["smem"],
        "status": str(event.get("status", "cached")),
        "seconds": msgspec.convert(event.get("seconds", 0.0), float),
    }


def _phases(events: list[dict[str, Json]], seconds: float) -> list[Phase]:
    summary = next(event for event in reversed(events) if event["kind"] == "summary")
    phases = msgspec.convert(summary["phases"], dict[str, float])
    start = seconds - msgspec.convert(summary["seconds"], float)
    return [
        {"phase": "start", "seconds": start},
        *(Phase(phase=name, seconds=spent) for name, spent in phases.items()),
    ]
