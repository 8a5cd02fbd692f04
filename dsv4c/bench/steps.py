"""Every kernel and layer of a step, timed beside its floor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial

import torch
from msgspec.structs import replace

from dsv4c.bench.results import Card, KernelRow, LayerRow, StepRow, Time
from dsv4c.bench.step import BenchStep, added_times, apart, has_kernels, launches, layer_spans
from dsv4c.bench.timing import MOST_SETS, ROTATED, Call, time_calls
from dsv4c.ir.op import Cost
from dsv4c.models.deepseek_v4.config import load_config
from dsv4c.plan.manifest import Kernel
from dsv4c.plan.plan import Plan

_COPIES = 4_000_000_000
"""Most bytes of copies of one kernel's operands."""


def measure_step(
    plan: Plan, card: Card, sequences: int, context: int, tokens: int = 1, kernel: str = "*"
) -> StepRow:
    """Time a step: decode with one token for each sequence, else prefill.

    Args:
        plan: for this machine's GPU.
        card: measured in the same run.
        sequences: at least 1.
        context: tokens that each sequence holds before the step.
        tokens: of each sequence in the step.
        kernel: a glob; only kernels of such names are timed by themselves.

    Raises:
        DsvError: as `Plan.session`.
    """
    with torch.inference_mode():
        step = BenchStep(plan, sequences, tokens, context)
        end = len(step.nodes)
        costs = [step.cost(i) for i in range(end)]
        inside = _inside(plan, card, step, tokens == 1) if has_kernels(step.graph) else _Inside()
        kernels = _kernels(plan, card, step, costs, inside.nodes, kernel)
        total = step.region(0, end)
    moved = total.read + total.write
    return StepRow(
        *(sequences, sequences * tokens, context),
        *(inside.time, card.floor_us(moved, total.flops), inside.launches),
        *(kernels, [*inside.layers], plan.reference_nodes, inside.apart),
    )


@dataclass(frozen=True)
class _Inside:
    """What the graph of a step tells: its times, those of its layers, microseconds of nodes."""

    time: Time | None = None
    apart: Time | None = None
    launches: int = 0
    layers: Sequence[LayerRow] = ()
    nodes: Mapping[int, float] = field(default_factory=dict[int, float])


def _inside(plan: Plan, card: Card, step: BenchStep, decode: bool) -> _Inside:
    end, spans = len(step.nodes), layer_spans([node for node, _ in step.nodes])
    bounds = sorted({0, end, *(cut for span in spans.values() for cut in span)})
    count = launches(step.prefix(end)) - 1
    if not decode:
        between = added_times(step, bounds, 7)
        return _Inside(between(0, end), None, count, _layers(plan, card, step, spans, between))
    between = added_times(step, range(end + 1), 15)
    with apart():
        plain = added_times(step, bounds, 15)
    layers = _layers(plan, card, step, spans, between)
    layers = [replace(one, apart=plain(*spans[i])) for i, one in zip(spans, layers, strict=True)]
    nodes = {i: between(i, i + 1).us for i in range(end)}
    return _Inside(between(0, end), plain(0, end), count, layers, nodes)


def _layers(
    plan: Plan,
    card: Card,
    step: BenchStep,
    spans: Mapping[int, tuple[int, int]],
    between: Callable[[int, int], Time],
) -> list[LayerRow]:
    config = load_config(plan.path)
    made = plan.manifest.synthetic
    found: list[LayerRow] = []
    for layer, span in spans.items():
        cost = step.region(*span)
        moved = cost.read + cost.write
        found.append(
            LayerRow(
                made.originals[layer] if made is not None else layer,
                config.layers[layer].kind,
                span[1] - span[0],
                between(*span),
                moved,
                cost.flops,
                card.floor_us(moved, cost.flops),
            )
        )
    return found


def _kernels(
    plan: Plan,
    card: Card,
    step: BenchStep,
    costs: Sequence[Cost],
    inside: Mapping[int, float],
    glob: str,
) -> list[KernelRow]:
    places: dict[str, list[int]] = {}
    for i, (node, _) in enumerate(step.nodes):
        if fnmatchcase(node.impl, glob):
            places.setdefault(node.impl, []).append(i)
    facts = {kernel.name: kernel for kernel in plan.manifest.kernels}
    return [
        _kernel(plan, card, step, facts[name], used, costs, inside) for name, used in places.items()
    ]


def _kernel(
    plan: Plan,
    card: Card,
    step: BenchStep,
    facts: Kernel,
    used: Sequence[int],
    costs: Sequence[Cost],
    inside: Mapping[int, float],
) -> KernelRow:
    total = sum((costs[i] for i in used), Cost())
    moved, flops = (total.read + total.write) / len(used), total.flops / len(used)
    sets: list[list[torch.Tensor]] = []
    for i in used:
        sets += input_sets(step.arguments(*step.nodes[i]), moved, len(used))
    function = plan.kernels()[facts.name]
    calls: list[Call] = [partial(function, *one) for one in sets]
    time = time_calls(calls)
    added = [inside[i] for i in used if i in inside]
    return KernelRow(
        *(facts.name, facts.kind, len(used), launches(calls[0]), time),
        sum(added) / len(added) if added else None,
        *(moved, flops, card.floor_us(moved, flops), card.bound(moved, flops)),
        *(moved * len(sets), facts.registers, facts.spills, facts.smem),
    )


def input_sets(
    given: Sequence[torch.Tensor], moved: float, shared_by: int
) -> list[list[torch.Tensor]]:
    """A kernel's arguments and as many copies as make a round of calls move more than an L2 holds.

    Args:
        given: the arguments.
        moved: bytes of one call.
        shared_by: how many such lists of arguments one round calls.
    """
    size = sum(one.numel() * one.element_size() for one in given)
    wanted = -(-ROTATED // int(shared_by * max(moved, 1.0)))
    count = max(1, min(wanted, MOST_SETS, _COPIES // max(shared_by * size, 1)))
    return [list(given), *([one.clone() for one in given] for _ in range(count - 1))]
