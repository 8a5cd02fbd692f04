"""One document about a plan: what the HTML report embeds and what `--format json` prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from dsv4c.events import read_events
from dsv4c.ir.cost import node_cost
from dsv4c.ir.graph import Graph, Node
from dsv4c.ir.op import Cost
from dsv4c.ir.text import parse
from dsv4c.models.deepseek_v4.config import load_config
from dsv4c.pipeline import largest_step
from dsv4c.plan.files import inside
from dsv4c.plan.manifest import Pass
from dsv4c.report.history import RecordView, StageView, stage_views
from dsv4c.report.measured import MeasuredView, measured_view
from dsv4c.report.memory import MemoryView, memory_view
from dsv4c.report.passes import RemarkView, passes_view
from dsv4c.report.selection import Selection
from dsv4c.report.weights import WeightsView, weights_view

if TYPE_CHECKING:
    from dsv4c.plan.plan import Plan

SCHEMA = "dsv4c.report/2"
MODEL_IR = "ir/00_model.ir"
EVERYTHING = Selection()


class CostView(TypedDict):
    """`saved` bytes are those that the parts of a fused node would move and the node does not."""

    flops: float
    read: float
    write: float
    saved: float


class ScheduledView(TypedDict):
    """What a node of the last stage got: what runs it, its place in the arena, its cost in two steps.

    `decode` is a step of one token, `prefill` the plan's largest step.
    """

    impl: str
    offsets: list[int]
    decode: CostView
    prefill: CostView


class SourceView(TypedDict):
    name: str
    kind: str
    arch: str
    params: dict[str, int | float | str | bool]
    nodes: list[str]
    registers: int
    spills: int
    smem: int
    source: str


class LayerView(TypedDict):
    """`kind` is `swa`, `csa` or `hca`."""

    kind: str
    ratio: int
    hash_routing: bool


class PlanView(TypedDict):
    model: str
    target: str
    dsv4c: str
    tools: dict[str, str]
    options: dict[str, str | int]
    layers: list[LayerView]
    phases: dict[str, float]
    steps: dict[str, dict[str, int]]


class ReportView(TypedDict):
    """`schedule` belongs to the nodes of the last stage, in order."""

    schema: str
    plan: PlanView
    records: list[RecordView]
    stages: list[StageView]
    schedule: list[ScheduledView]
    inputs: dict[str, str]
    remarks: list[RemarkView]
    kernels: list[SourceView]
    weights: WeightsView
    memory: MemoryView
    measured: MeasuredView | None


def report_view(plan: Plan, bench: Path | None = None) -> ReportView:
    """Everything about a plan but its weights' bytes.

    Args:
        plan: loaded; its weight files are not opened.
        bench: a result of `scripts/gpu_kernels.py`.

    Raises:
        DsvError: DSV231 (a file is missing or malformed), DSV221 (IR), DSV101 (the bench result).
    """
    made, graph = plan.manifest, plan.graph
    events = read_events(inside(plan.path, "events.jsonl"))
    model = parse(inside(plan.path, MODEL_IR).read_text("utf-8"))
    results = [(one, _result(plan, one)) for one in made.passes]
    records, stages = stage_views(model, results)
    env = largest_step(made.options.chunk)
    steps = {"decode": {**env, "T": 1, "R": 1}, "prefill": env}
    return {
        "schema": SCHEMA,
        "plan": _plan(plan, steps),
        "records": records,
        "stages": stages,
        "schedule": [_scheduled(node, graph, steps) for node in graph.nodes],
        "inputs": {name: str(graph.types[name]) for name in graph.inputs},
        "remarks": passes_view(events, EVERYTHING)["remarks"],
        "kernels": _kernels(plan),
        "weights": weights_view(graph, EVERYTHING),
        "memory": memory_view(graph, EVERYTHING),
        "measured": measured_view(bench, {k.name for k in made.kernels}, made.target)
        if bench
        else None,
    }


def _result(plan: Plan, one: Pass) -> Graph | None:
    return parse(inside(plan.path, one.ir).read_text("utf-8")) if one.ir else None


def _plan(plan: Plan, steps: dict[str, dict[str, int]]) -> PlanView:
    made = plan.manifest
    layers = load_config(plan.path).layers
    options = made.options
    return {
        "model": made.model.name,
        "target": made.target,
        "dsv4c": made.dsv4c,
        "tools": made.tools,
        "options": {"dtype": options.dtype, "kv_cache": options.kv_cache, "chunk": options.chunk},
        "layers": [
            {"kind": one.kind, "ratio": one.ratio, "hash_routing": one.hash_routing}
            for one in layers
        ],
        "phases": made.phases,
        "steps": steps,
    }


def _kernels(plan: Plan) -> list[SourceView]:
    return [
        {
            "name": one.name,
            "kind": one.kind,
            "arch": one.arch,
            "params": one.params,
            "nodes": one.nodes,
            "registers": one.registers,
            "spills": one.spills,
            "smem": one.smem,
            "source": inside(plan.path, f"kernels/{one.name}/source.py").read_text("utf-8"),
        }
        for one in plan.manifest.kernels
    ]


def _scheduled(node: Node, graph: Graph, steps: Mapping[str, Mapping[str, int]]) -> ScheduledView:
    return {
        "impl": node.impl,
        "offsets": list(node.offsets),
        "decode": _cost(node, graph, steps["decode"]),
        "prefill": _cost(node, graph, steps["prefill"]),
    }


def _cost(node: Node, graph: Graph, env: Mapping[str, int]) -> CostView:
    cost, saved = node_cost(node, graph.types, env), 0.0
    if node.body is not None:
        parts = sum((node_cost(one, node.body.types, env) for one in node.body.nodes), Cost())
        saved = parts.read + parts.write - cost.read - cost.write
    return {"flops": cost.flops, "read": cost.read, "write": cost.write, "saved": saved}
