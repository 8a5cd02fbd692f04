"""What `inspect` looks at: a plan folder, or a checkpoint folder taken through the passes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dsv4c.errors import DsvError
from dsv4c.events import EventLog, Json, read_events
from dsv4c.ir.graph import STAGES, Graph
from dsv4c.plan.files import MANIFEST

if TYPE_CHECKING:
    from dsv4c.plan.manifest import Kernel

LAST = STAGES[-1]


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
    """

    kind: str
    model: str
    target: str
    graph: Graph
    events: list[dict[str, Json]]
    kernels: Mapping[str, Kernel] = field(default_factory=dict[str, "Kernel"])


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
    if (path / "config.json").is_file():
        return _open_checkpoint(path, target, stage or LAST)
    raise DsvError(
        "DSV231",
        "there is neither a plan nor a checkpoint here",
        where=str(path),
        expected=f"a folder with {MANIFEST} or config.json",
        found="a folder without them" if path.is_dir() else "no folder",
    )


def _open_plan(path: Path, stage: str) -> Subject:
    from dsv4c.ir.text import parse
    from dsv4c.plan.plan import Plan

    plan = Plan.load(path, check_weights=False)
    graph = plan.graph
    if stage != LAST:
        dumps = sorted((path / "ir").glob("*.ir"))
        texts = {dump.stem.partition("_")[2]: dump.read_text("utf-8") for dump in dumps}
        stages = {name: _stage(text) for name, text in texts.items()}
        graph = parse(texts[_find(stage, stages)])
    kernels = {kernel.name: kernel for kernel in plan.manifest.kernels}
    events = read_events(path / "events.jsonl")
    return Subject("plan", plan.manifest.model.name, plan.target, graph, events, kernels)


def _open_checkpoint(path: Path, target: str, stage: str) -> Subject:
    from dsv4c.checkpoint.reader import Checkpoint
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
    return Subject("checkpoint", path.resolve().name, target, graphs[found], log.records)


def _stage(text: str) -> str:
    match = re.match(r'graph ".*" stage\((\w+)\)', text)
    return match[1] if match else ""


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
