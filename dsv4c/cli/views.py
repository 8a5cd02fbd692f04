"""The views of `dsv4c inspect`: which document each shows, and how it looks as text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import click

from dsv4c.cli.render import byte_count, heading, layer_list, pairs, table, warn
from dsv4c.cli.tuned import print_tiles
from dsv4c.report.arena import ArenaView
from dsv4c.report.events import EventsView, events_view
from dsv4c.report.ir import IrView, ir_view
from dsv4c.report.kernels import KernelsView, KernelView, kernels_view
from dsv4c.report.memory import MemoryView, memory_view
from dsv4c.report.passes import PassesView, RuleView, passes_view
from dsv4c.report.selection import Selection
from dsv4c.report.subject import Subject
from dsv4c.report.summary import SummaryView, summary_view
from dsv4c.report.weights import FormatView, WeightsView, weights_view

D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class View(Generic[D]):
    """A document and its text."""

    document: Callable[[Subject, Selection], D]
    text: Callable[[D], None]

    def print(self, subject: Subject, selection: Selection) -> None:
        self.text(self.document(subject, selection))


def _summary(view: SummaryView) -> None:
    pairs(
        {
            "what": f"{view['kind']} of {view['model']}",
            "target": view["target"],
            **({"compiled from": view["source_ir"]} if view["source_ir"] else {}),
            **({"edited by hand": ", ".join(view["hand_edited"])} if view["hand_edited"] else {}),
            "layers": view["layers"],
            "nodes": view["nodes"],
            "fused nodes": view["fused_nodes"],
            "kernels": view["kernels"],
            "nodes on kernels": view["kernel_nodes"],
            "nodes on torch references": view["reference_nodes"],
            "parameters": view["parameters"],
            "weights": byte_count(view["weight_bytes"]),
            "state per sequence": byte_count(view["bytes_per_slot"]),
            f"state per {view['page_tokens']} tokens": byte_count(view["bytes_per_page"]),
        }
    )
    heading("weights")
    _formats(view["formats"])
    heading("fusions")
    _rules(view["rules"])


def _ir(view: IrView) -> None:
    click.echo(view["text"], nl=False)


def _passes(view: PassesView) -> None:
    table(
        ("pass", "changed", "nodes before", "nodes after", "looked at", "seconds"),
        [
            (
                f"{one['index']:02} {one['name']}",
                "yes" if one["modified"] else "no",
                one["nodes_before"],
                one["nodes_after"],
                one["candidates"],
                one["seconds"],
            )
            for one in view["passes"]
        ],
    )
    warn(view["warnings"])
    heading("rules")
    _rules(view["rules"])
    heading("remarks")
    table(
        ("rule", "status", "layer", "node", "what"),
        [
            (one["rule"], one["status"], one["layer"], one["node"], one["text"])
            for one in view["remarks"]
        ],
    )


def _rules(rules: list[RuleView]) -> None:
    table(
        ("rule", "applied", "refused"),
        [(rule["rule"], rule["applied"], rule["refused"]) for rule in rules],
    )


def _kernels(view: KernelsView) -> None:
    if not view["kernels"]:
        click.echo("no generated kernels")
    else:
        _kernel_table(view["kernels"])
        measured_tiles(view["kernels"])
    click.echo(f"\ndecode steps: {'CUDA graphs' if view['graphs'] else 'eager'}")
    heading(f"on torch references: {view['reference_nodes']} nodes")
    table(("kind", "nodes"), [(one["kind"], one["nodes"]) for one in view["reference"]])


def _kernel_table(kernels: list[KernelView]) -> None:
    table(
        ("kernel", "nodes", "layers", "registers", "spill bytes", "shared bytes"),
        [
            (
                one["name"],
                one["nodes"],
                layer_list(one["layers"]),
                one["registers"],
                one["spills"],
                one["smem"],
            )
            for one in kernels
        ],
    )


def measured_tiles(kernels: list[KernelView]) -> None:
    """Tiles that are not those of the tables."""
    found = [(one["name"], tile) for one in kernels for tile in one["tiles"]]
    found = [(name, tile) for name, tile in found if tile["origin"] != "table"]
    if found:
        heading("measured tiles")
        print_tiles([tile for _, tile in found], *(name for name, _ in found))


def _memory(view: MemoryView) -> None:
    pairs(
        {
            "weights": byte_count(view["weights"]),
            "state per sequence": byte_count(view["bytes_per_slot"]),
            f"state per {view['page_tokens']} tokens": byte_count(view["bytes_per_page"]),
        }
    )
    heading("states")
    table(
        ("state", "type", "bytes per sequence", "bytes per page"),
        [
            (one["name"], one["type"], one["bytes_per_slot"], one["bytes_per_page"])
            for one in view["states"]
        ],
    )
    if view["arena"] is not None:
        _arena(view["arena"])


def _arena(view: ArenaView) -> None:
    step = ", ".join(f"{name}={size}" for name, size in view["step"].items())
    heading(f"arena for a step of {step}")
    pairs(
        {
            "arena": byte_count(view["bytes"]),
            "in use at once": byte_count(view["least"]),
            "zeroed scratch beside it": byte_count(view["zeroed"]),
        }
    )
    table(
        ("offset", "bytes", "from node", "to node", "layer", "value"),
        [
            (one["offset"], one["bytes"], one["begin"], one["end"], one["layer"], one["value"])
            for one in view["intervals"]
        ],
    )


def _weights(view: WeightsView) -> None:
    _formats(view["formats"])
    heading("weights")
    table(
        ("weight", "format", "shape", "bytes", "checkpoint tensors"),
        [
            (
                one["name"],
                one["format"],
                "x".join(map(str, one["dims"])),
                one["bytes"],
                ", ".join(one["tensors"]),
            )
            for one in view["weights"]
        ],
    )


def _formats(formats: list[FormatView]) -> None:
    table(
        ("format", "weights", "parameters", "bytes"),
        [(one["format"], one["weights"], one["parameters"], one["bytes"]) for one in formats],
    )


def _events(view: EventsView) -> None:
    table(
        ("seconds", "event", "what"),
        [
            (one["seconds"], one["kind"], ", ".join(f"{k} {v}" for k, v in one["fields"].items()))
            for one in view["events"]
        ],
    )
    if view["phases"]:
        heading("phases")
        phases = [(one["phase"], one["seconds"]) for one in view["phases"]]
        table(("phase", "seconds"), [*phases, ("total", sum(spent for _, spent in phases))])


VIEWS: dict[
    str,
    View[SummaryView]
    | View[IrView]
    | View[PassesView]
    | View[KernelsView]
    | View[MemoryView]
    | View[WeightsView]
    | View[EventsView],
] = {
    "summary": View(summary_view, _summary),
    "ir": View(lambda subject, selection: ir_view(subject.graph, selection), _ir),
    "passes": View(lambda subject, selection: passes_view(subject.events, selection), _passes),
    "kernels": View(
        lambda subject, selection: kernels_view(subject.graph, selection, subject.kernels),
        _kernels,
    ),
    "memory": View(lambda subject, selection: memory_view(subject.graph, selection), _memory),
    "weights": View(lambda subject, selection: weights_view(subject.graph, selection), _weights),
    "events": View(events_view, _events),
}
