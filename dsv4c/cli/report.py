"""`dsv4c report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dsv4c.cli.options import debug_option
from dsv4c.cli.render import byte_count
from dsv4c.files import write_whole

if TYPE_CHECKING:
    from dsv4c.plan.plan import Plan

FORMATS = {
    "html": "one page that opens in a browser, with no server and no network",
    "json": "what the page shows, for programs",
    "dot": "the graph, for Graphviz",
    "model-explorer": "the graph, for Model Explorer",
    "perfetto": "the timeline of the compile, for Perfetto",
}
OF_LAYERS = ("dot", "model-explorer")
HELP = "Write all that is known about a plan into one file.\n\n\b\n" + "\n".join(
    f"{name:<14}  {doc}" for name, doc in FORMATS.items()
)


@click.command("report", help=HELP)
@click.argument("plan", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file; by default report.html, and stdout for the other formats.",
)
@click.option(
    "--format", "form", type=click.Choice(list(FORMATS)), default="html", show_default=True
)
@click.option(
    "--bench",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Measured times of the kernels: a result of scripts/gpu_kernels.py (html, json).",
)
@click.option("--layer", type=click.IntRange(0), help="Only this layer (dot, model-explorer).")
@debug_option
def command(plan: Path, out: Path | None, form: str, bench: Path | None, layer: int | None) -> None:
    from dsv4c.plan.plan import Plan

    if layer is not None and form not in OF_LAYERS:
        raise click.UsageError(f"--layer is for --format {' and '.join(OF_LAYERS)}.")
    if bench is not None and form not in ("html", "json"):
        raise click.UsageError("--bench is for --format html and json.")
    text = _text(Plan.load(plan, check_weights=False), form, bench, layer)
    if out is None and form != "html":
        click.echo(text, nl=False)
        return
    path = out or Path("report.html")
    data = text.encode()
    write_whole(path, data)
    click.echo(f"wrote {path}, {byte_count(len(data))}", err=True)


def _text(plan: Plan, form: str, bench: Path | None, layer: int | None) -> str:
    import json

    from dsv4c.report.selection import Selection

    label = f"{plan.manifest.model.name} on {plan.target}"
    if form == "dot":
        from dsv4c.report.export_dot import dot_text

        return dot_text(plan.graph, Selection(layer))
    if form == "model-explorer":
        from dsv4c.report.export_model_explorer import graph_collection

        return json.dumps(graph_collection(plan.graph, Selection(layer), label)) + "\n"
    if form == "perfetto":
        from dsv4c.events import read_events
        from dsv4c.report.export_perfetto import trace

        events = read_events(plan.path / "events.jsonl")
        return json.dumps(trace(events, f"dsv4c compile {label}")) + "\n"
    from dsv4c.report.export_json import report_view

    view = report_view(plan, bench)
    if form == "json":
        return json.dumps(view, ensure_ascii=False) + "\n"
    from dsv4c.report.html.page import render_page

    return render_page(view)
