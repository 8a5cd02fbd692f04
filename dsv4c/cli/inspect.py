"""`dsv4c inspect`."""

from __future__ import annotations

from pathlib import Path

import click

from dsv4c.cli.options import debug_option, json_option, target_option
from dsv4c.cli.render import emit_json

VIEWS = {
    "summary": "what it is, its size, what runs on kernels and what on torch",
    "ir": "the graph as text",
    "passes": "what each rule did, and why it refused where it did",
    "kernels": "kernels by name with registers, spills and shared memory",
    "memory": "weights, and states per sequence and per page",
    "weights": "formats, shapes and the checkpoint tensors behind each weight",
    "events": "what the compiler did when, and its phases",
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
@target_option("What a checkpoint would be compiled for; a plan has its own.")
@json_option
@debug_option
def command(
    subject: Path,
    view: str,
    layer: int | None,
    node: str | None,
    stage: str | None,
    target: str,
    as_json: bool,
) -> None:
    from dsv4c.cli.views import VIEWS as views
    from dsv4c.report.selection import Selection
    from dsv4c.report.subject import is_checkpoint, open_subject

    shown, selection = views[view], Selection(layer, node)
    if view == "weights" and stage is None and is_checkpoint(subject):
        from dsv4c.cli.contents import show_contents

        show_contents(subject, selection, as_json)
        return
    opened = open_subject(subject, target, stage)
    if as_json:
        document = shown.document(opened, selection)
        emit_json("inspect", {"subject": str(subject), "view": view, **document})
    else:
        shown.print(opened, selection)
