"""`dsv4c repro`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dsv4c.cli.options import debug_option, json_option
from dsv4c.cli.render import emit_json
from dsv4c.cli.tokens import Source, token_options
from dsv4c.errors import DsvError

if TYPE_CHECKING:
    from dsv4c.plan.plan import Plan


@click.command("repro")
@click.argument("plan", type=click.Path(path_type=Path))
@click.argument("what", metavar="KERNEL|NODE")
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder to write."
)
@token_options
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=1024,
    show_default=True,
    help="Run at most this many tokens.",
)
@click.option("--decode", is_flag=True, help="Take the last token's step, not the prefill.")
@json_option
@debug_option
def command(
    plan: Path,
    what: str,
    out: Path,
    prompt: str | None,
    text_file: Path | None,
    token_file: Path | None,
    limit: int,
    decode: bool,
    as_json: bool,
) -> None:
    """Cut a kernel or a node out of PLAN: a folder that runs, checks and times it alone.

    The operands are those of a run: of the text that is given, else of 160 fixed random tokens. A
    kernel stands for the first node that it runs. Without its GPU the operands are made by the
    references on the CPU. Then: python DIR/run.py
    """
    import dsv4c
    from dsv4c.runtime.case import capture, write_case

    loaded = dsv4c.load_plan(plan)
    node = _find(loaded, what.removeprefix("%"))
    ids = Source(prompt, text_file, token_file).ids_or_random(loaded)[:limit]
    source = loaded if _usable(loaded) else loaded.reference()
    session = source.session(max_sequences=1, max_tokens=len(ids))
    write_case(out, loaded, capture(session, node, ids, decode), source)
    document = {
        "plan": str(plan),
        "node": node,
        "runs_on": loaded.graph.producers[node].impl,
        "tokens": len(ids),
        "folder": str(out),
        "files": sorted(path.name for path in out.iterdir()),
        "command": f"python {out}/run.py",
    }
    if as_json:
        emit_json("repro", document)
    else:
        click.echo(f"{out}: %{node}, run by {document['runs_on']}, operands of {len(ids)} tokens")
        click.echo(document["command"])


def _find(plan: Plan, what: str) -> str:
    """The node of that name, or the first one that the kernel of that name runs."""
    if what in plan.graph.producers:
        return plan.graph.producers[what].name
    users = [node.name for node in plan.graph.nodes if node.impl == what]
    if users:
        return users[0]
    from difflib import get_close_matches

    names = {*plan.graph.producers, *(node.impl for node in plan.graph.nodes)}
    near = get_close_matches(what, sorted(names), 3)
    raise DsvError(
        "DSV101",
        "the plan has no such node or kernel",
        where=str(plan.path),
        found=what,
        hint=f"did you mean {' or '.join(near)}?" if near else "dsv4c inspect PLAN kernels",
    )


def _usable(plan: Plan) -> bool:
    try:
        plan.device()
    except DsvError:
        return False
    return True
