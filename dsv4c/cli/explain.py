"""`dsv4c explain`."""

from __future__ import annotations

from pathlib import Path

import click

from dsv4c.cli.options import debug_option, json_option, target_option
from dsv4c.cli.render import emit_json


@click.command("explain")
@click.argument("subject", metavar="PLAN|MODEL", type=click.Path(path_type=Path))
@click.argument("what", required=False)
@target_option("What a checkpoint would be compiled for; a plan has its own.")
@json_option
@debug_option
def command(subject: Path, what: str | None, target: str, as_json: bool) -> None:
    """Say what WHAT is, where it comes from and what becomes of it.

    WHAT is a node or value, a kernel, a weight or checkpoint tensor, a state, offset:N, a rule or
    pass, a template, or an error code. An error code needs no plan: dsv4c explain DSV501.
    """
    from dsv4c.report.explain import explain, explain_code
    from dsv4c.report.subject import open_subject

    document = explain_code(str(subject) if what is None else what)
    if document is None and what is None:
        raise click.UsageError("Give a plan and a name of something in it, or an error code.")
    if document is None:
        document = explain(open_subject(subject, target), what or "")
    if as_json:
        emit_json("explain", {"subject": str(subject), **document})
    else:
        from dsv4c.cli.explained import show

        show(document)
