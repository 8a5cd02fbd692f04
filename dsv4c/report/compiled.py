"""What a compile did: fusions, kernels with their resources, and where the time went."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypedDict

from dsv4c.events import read_events
from dsv4c.report.kernels import KernelView, kernels_view
from dsv4c.report.passes import RuleView, passes_view
from dsv4c.report.selection import Selection

if TYPE_CHECKING:
    from dsv4c.plan.manifest import Manifest
    from dsv4c.plan.plan import Plan

EVERYTHING = Selection()


class BuiltKernel(KernelView):
    """A kernel and whether it was `compiled` or `cached`."""

    status: str


class Phase(TypedDict):
    phase: str
    seconds: float


class Compiled(TypedDict):
    plan: str
    model: str
    target: str
    source_ir: str | None
    hand_edited: list[str]
    rules: list[RuleView]
    kernels: list[BuiltKernel]
    reference_nodes: int
    phases: list[Phase]
    seconds: float


def _phases(manifest: Manifest) -> Iterator[Phase]:
    """The phases with each pass for itself, verifying included; they add up to the same."""
    for name, seconds in manifest.phases.items():
        rest = seconds
        if name == "passes":
            for one in manifest.passes:
                yield Phase(phase=f"pass {one.index:02} {one.name}", seconds=one.seconds)
                rest -= one.seconds
        yield Phase(phase="passes, the rest" if name == "passes" else name, seconds=rest)


def source_ir(manifest: Manifest) -> str | None:
    """The IR file that a plan was compiled from, with its stage."""
    found = manifest.source_ir
    return f"{found.file} (stage {found.stage})" if found is not None else None


def compiled(plan: Plan, seconds: float) -> Compiled:
    """The account of the compile that made `plan`.

    Args:
        plan: fresh from `dsv4c.compile`.
        seconds: wall clock of the whole command. What the plan's own clock does not cover
            (imports, the final rename) becomes the phase `start and end`, so that the phases add
            up to it. The phase of the passes is told pass by pass.
    """
    events = read_events(plan.path / "events.jsonl")
    made = {kernel.name: kernel for kernel in plan.manifest.kernels}
    view = kernels_view(plan.graph, EVERYTHING, made)
    status = {str(e["name"]): str(e["status"]) for e in events if e["kind"] == "kernel"}
    phases = plan.manifest.phases
    return {
        "plan": str(plan.path),
        "model": plan.manifest.model.name,
        "target": plan.target,
        "source_ir": source_ir(plan.manifest),
        "hand_edited": [kernel.name for kernel in plan.manifest.kernels if kernel.hand_edited],
        "rules": passes_view(events, EVERYTHING)["rules"],
        "kernels": [BuiltKernel(**one, status=status[one["name"]]) for one in view["kernels"]],
        "reference_nodes": view["reference_nodes"],
        "phases": [
            *_phases(plan.manifest),
            Phase(phase="start and end", seconds=seconds - sum(phases.values())),
        ],
        "seconds": seconds,
    }
