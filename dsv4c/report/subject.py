"""What `inspect` looks at: a plan folder, or a checkpoint folder taken through the passes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from dsv4c.errors import DsvError
from dsv4c.events import EventLog, Json, read_events
from dsv4c.ir.graph import STAGES, Graph
from dsv4c.plan.files import MANIFEST

if TYPE_CHECKING:
    from dsv4c.plan.manifest import Kernel, Manifest

LAST = STAGES[-1]


@dataclass(frozen=True)
class Snapshot:
    """The graph after one pass, as text.

    Attributes:
        name: of the pass; `model` for the graph as built.
        text: IR.
    """

    name: str
    text: str

    @property
    def stage(self) -> str:
        match = re.match(r'graph ".*" stage\((\w+)\)', self.text)
        return match[1] if match else ""

    @cached_property
    def graph(self) -> Graph:
        from dsv4c.ir.text import parse

        return parse(self.text)

    def defines(self, value: str) -> bool:
        """Whether a node or an input of this name is there, fused bodies included."""
        return f"%{value}: " in self.text


@dataclass(frozen=True)
class Subject:
    """A graph with its history.

    Attributes:
        kind: `plan` or `checkpoint`.
        model: the model's name.
        target: what the graph is lowered for.
        graph: at the stage that was asked for.
        events: records of the event log.
        kernels: compiled kernels by name; none for a checkpoint.
        path: the folder.
        manifest: of a plan.
        snapshots: makes the graph's history: as built, then after each pass that changed it.
    """

    kind: str
    model: str
    target: str
    graph: Graph
    events: list[dict[str, Json]]
    kernels: Mapping[str, Kernel] = field(default_factory=dict[str, "Kernel"])
    path: Path = Path()
    manifest: Manifest | None = None
    snapshots: Callable[[], Sequence[Snapshot]] = list[Snapshot]


def is_checkpoint(path: Path) -> bool:
    """Whether a folder holds a model, and no plan."""
    return (path / "config.json").is_file() and not (path / MANIFEST).is_file()


def open_subject(path: Path, target: str, stage: str | None = None) -> Subject:
    """Open a folder of either kind.

    Args:
        path: a plan, or a checkpoint with config.json.
        target: what a checkpoint is lowered for; a plan has its own.
        stage: a stage, or the name of a pass (its result); the last stage by default.

    Raises:
        DsvError: DSV231 if the folder is neither; DSV101 for an unknown stage; whatever loading a
            plan or compiling a checkpoint raises.
    """
    if (path / MANIFEST).is_file():
        return _open_plan(path, stage or LAST)
    if is_checkpoint(path):
        return _open_checkpoint(path, target, stage or LAST)
    raise DsvError(
        "DSV231",
        "there is neither a plan nor a checkpoint here",
        where=str(path),
        expected=f"a folder with {MANIFEST} or config.json",
        found="a folder without them" if path.is_dir() else "no folder",
    )


def _open_plan(path: Path, stage: str) -> Subject:
    from dsv4c.plan.read import read_plan

    read = read_plan(path, check_weights=False)
    manifest, graph = read.manifest, read.graph

    def snapshots() -> list[Snapshot]:
        dumps = sorted((path / "ir").glob("*.ir"))
        return [Snapshot(one.stem.partition("_")[2], one.read_text("utf-8")) for one in dumps]

    if stage != LAST:
        stages = {one.name: one for one in snapshots()}
        graph = stages[_find(stage, {name: one.stage for name, one in stages.items()})].graph
    kernels = {kernel.name: kernel for kernel in manifest.kernels}
    events = read_events(path / "events.jsonl")
    name, target = manifest.model.name, manifest.target
    return Subject("plan", name, target, graph, events, kernels, path, manifest, snapshots)


def _open_checkpoint(path: Path, target: str, stage: str) -> Subject:
    from dsv4c.checkpoint.reader import Checkpoint
    from dsv4c.ir.text import show
    from dsv4c.models.deepseek_v4.build import BuildOptions, build_graph
    from dsv4c.models.deepseek_v4.config import load_config
    from dsv4c.models.deepseek_v4.names import read_ledger
    from dsv4c.passes.base import run_passes
    from dsv4c.pipeline import largest_step, pipeline
    from dsv4c.report.passes import record_pass

    config, options = load_config(path), BuildOptions()
    weights = read_ledger(config, Checkpoint.open(path)).weights
    graphs = {"model": build_graph(config, weights, options)}
    passes = pipeline(target, largest_step(options.chunk))
    _, records = run_passes(graphs["model"], passes)
    log = EventLog()
    for record in records:
        record_pass(log, record)
        graphs[record.name] = record.graph
    found = _find(stage, {name: graph.stage for name, graph in graphs.items()})

    def snapshots() -> list[Snapshot]:
        changed = ["model", *(record.name for record in records if record.modified)]
        return [Snapshot(name, show(graphs[name])) for name in dict.fromkeys(changed)]

    return Subject(
        *("checkpoint", path.resolve().name, target, graphs[found], log.records),
        path=path,
        snapshots=snapshots,
    )


def _find(wanted: str, stages: Mapping[str, str]) -> str:
    """The dump called `wanted`, or the last one at that stage; `stages` goes from dump to stage."""
    if wanted in stages:
        return wanted
    at_stage = [name for name, stage in stages.items() if stage == wanted]
    if not at_stage:
        known = [*dict.fromkeys(stages.values()), *stages]
        raise DsvError(
            "DSV101", "unknown stage", expected=", ".join(dict.fromkeys(known)), found=wanted
        )
    return at_stage[-1]
