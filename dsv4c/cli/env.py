"""`dsv4c env`."""

from __future__ import annotations

import click

from dsv4c.cli.options import debug_option, json_option
from dsv4c.cli.render import byte_count, emit_json, heading, pairs, table


@click.command("env")
@json_option
@debug_option
def command(as_json: bool) -> None:
    """Show every setting with its origin, versions, GPUs and the C compiler."""
    from dsv4c.report.environment import environment

    document = environment()
    if as_json:
        emit_json("env", document)
        return
    table(
        ("variable", "value", "origin", "meaning"),
        [(s["name"], str(s["value"]), s["origin"], s["doc"]) for s in document["settings"]],
    )
    heading("versions")
    pairs({name: version or "not installed" for name, version in document["versions"].items()})
    heading("machine")
    gpus = [f"{gpu['name']}, {byte_count(gpu['memory'])}" for gpu in document["gpus"]]
    pairs(
        {
            "gpu": "; ".join(gpus) or "none",
            "target of --target auto": document["target"],
            "gcc": document["gcc"] or "not found: a plan for a GPU cannot be linked",
        }
    )
