"""`dsv4c inspect`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dsv4c.cli.options import debug_option, json_option
from dsv4c.cli.render import byte_count, emit_json, heading, layer_list, pairs, table

if TYPE_CHECKING:
    from dsv4c.report.selection import Selection
    from dsv4c.report.subject import Subject

VIEWS = {
    "summary": "what it is, its size, what runs on kernels and what on torch",
    "ir": "the graph as text",
    "passes": "what each rule did, and why it refused where it did",
    "kernels": "kernels by name with registers, spills and shared memory",
    "memory": "weights, and states per sequence and per page",
    "weights": "formats, shapes and the checkpoint tensors behind each weight",
}
HELP = "Look into a plan or a checkpoint folder.\n\n\b\n" + "\n".join(
    f"{name:<8}  {doc}" for name, doc in VIEWS.items()
)


@click.command("inspect", help=HELP)
@click.argument("subject", metavar="PLAN|MODEL", type=click.Path(path_type=Path))
@click.argument("view", type=click.Choice(list(VIEWS)), default="summary")
@click.option("--layer", type=click.IntRange(0), help="Only this layer.")
@click.option("--node", metavar="GLOB", help="Only nodes, weights, states of this name or kind.")
@click.option(
    "--stage", metavar="NAME", help="The graph at this stage or after this pass, not the last one."
)
@json_option
@debug_option
def command(
    subject: Path,
    view: str,
    layer: int | None,
    node: str | None,
    stage: str | None,
    as_json: bool,
) -> None:
    from dsv4c.report.selection import Selection
    from dsv4c.report.subject import open_subject

    opened = open_subject(subject, stage)
    selection = Selection(layer, node)
    if as_json:
        document = opened.document(view, selection)
        emit_json("inspect", {"subject": str(subject), "view": view, **document})
    else:
        _PRINTERS[view](opened, selection)


def _print_summary(subject: Subject, selection: Selection) -> None:
    document = subject.summary(selection)
    pairs(
        {
            "what": f"{document['kind']} of {document['model']}",
            "target": document["target"] or "none yet",
            "layers": document["layers"],
            "nodes": document["nodes"],
            "kernels": document["kernels"],
            "nodes on kernels": document["kernel_nodes"],
            "nodes on torch references": document["reference_nodes"],
            "parameters": document["parameters"],
            "weights": byte_count(document["weight_bytes"]),
            "state per sequence": byte_count(document["bytes_per_slot"]),
            f"state per {document['page_tokens']} tokens": byte_count(document["bytes_per_page"]),
        }
    )
    heading("weights")
    _print_formats(subject, selection)
    if document["fusions"]:
        heading("fusions")
        _print_rules(subject, selection)


def _print_ir(subject: Subject, selection: Selection) -> None:
    from dsv4c.report.ir import ir_text

    click.echo(ir_text(subject.graph, selection), nl=False)


def _print_passes(subject: Subject, selection: Selection) -> None:
    document = subject.passes(selection)
    table(
        ("pass", "changed", "nodes before", "after", "seconds"),
        [
            (
                f"{one['index']:02} {one['name']}",
                "yes" if one["modified"] else "no",
                one["nodes_before"],
                one["nodes_after"],
                one["seconds"],
            )
            for one in document["passes"]
        ],
    )
    heading("rules")
    _print_rules(subject, selection)
    heading("remarks")
    table(
        ("rule", "status", "layer", "node", "what"),
        [
            (
                r["rule"],
                r["status"],
                "-" if r["layer"] is None else str(r["layer"]),
                r["node"],
                r["text"],
            )
            for r in document["remarks"]
        ],
    )


def _print_rules(subject: Subject, selection: Selection) -> None:
    rules = subject.passes(selection)["rules"]
    table(
        ("rule", "applied", "refused"),
        [(rule["rule"], rule["applied"], rule["refused"]) for rule in rules],
    )


def _print_kernels(subject: Subject, selection: Selection) -> None:
    document = subject.kernels(selection)
    if document["kernels"]:
        table(
            ("kernel", "nodes", "layers", "registers", "spill bytes", "smem bytes"),
            [
                (
                    kernel["name"],
                    kernel["nodes"],
                    layer_list(kernel["layers"]),
                    kernel["registers"],
                    kernel["spills"],
                    kernel["smem"],
                )
                for kernel in document["kernels"]
            ],
        )
    else:
        click.echo("no kernels")
    if document["reference"]:
        heading(f"on torch references: {document['reference_nodes']} nodes")
        table(("kind", "nodes"), [(one["kind"], one["nodes"]) for one in document["reference"]])


def _print_memory(subject: Subject, selection: Selection) -> None:
    document = subject.memory(selection)
    pairs(
        {
            "weights": byte_count(document["weights"]),
            "state per sequence": byte_count(document["bytes_per_slot"]),
            f"state per {document['page_tokens']} tokens": byte_count(document["bytes_per_page"]),
        }
    )
    heading("states")
    table(
        ("state", "type", "bytes per sequence", "bytes per page"),
        [
            (one["name"], one["type"], one["bytes_per_slot"], one["bytes_per_page"])
            for one in document["states"]
        ],
    )


def _print_weights(subject: Subject, selection: Selection) -> None:
    _print_formats(subject, selection)
    heading("weights")
    table(
        ("weight", "format", "shape", "bytes", "checkpoint tensors"),
        [
            (
                weight["name"],
                weight["format"],
                "x".join(map(str, weight["dims"])),
                weight["bytes"],
                ", ".join(weight["tensors"]),
            )
            for weight in subject.weights(selection)["weights"]
        ],
    )


def _print_formats(subject: Subject, selection: Selection) -> None:
    table(
        ("format", "weights", "parameters", "bytes"),
        [
            (one["format"], one["weights"], one["parameters"], one["bytes"])
            for one in subject.weights(selection)["formats"]
        ],
    )


_PRINTERS: dict[str, Callable[[Subject, Selection], None]] = {
    "summary": _print_summary,
    "ir": _print_ir,
    "passes": _print_passes,
    "kernels": _print_kernels,
    "memory": _print_memory,
    "weights": _print_weights,
}
