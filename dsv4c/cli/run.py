"""`dsv4c run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dsv4c.cli.options import debug_option, json_option
from dsv4c.cli.progress import progress
from dsv4c.cli.render import emit_json, pairs, table
from dsv4c.cli.tokens import Source, token_options
from dsv4c.errors import DsvError

if TYPE_CHECKING:
    from dsv4c.plan.plan import Plan


@click.command("run")
@click.argument("plan", type=click.Path(path_type=Path))
@token_options
@click.option(
    "--window",
    type=click.IntRange(1),
    default=1024,
    show_default=True,
    help="Tokens predicted from one start.",
)
@click.option("--limit", type=click.IntRange(1), help="Predict at most this many tokens.")
@click.option("--check", is_flag=True, help="Compare every node with its float64 reference.")
@click.option("--nan-guard", is_flag=True, help="Find the first node that makes NaN or infinity.")
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    default=Path("nan-guard"),
    show_default=True,
    help="With --nan-guard: folder for that node and its operands.",
)
@json_option
@debug_option
def command(
    plan: Path,
    prompt: str | None,
    text_file: Path | None,
    token_file: Path | None,
    window: int,
    limit: int | None,
    check: bool,
    nan_guard: bool,
    save: Path,
    as_json: bool,
) -> None:
    """Let PLAN predict a text and print the loss in nats per token.

    The text is cut into windows that are predicted independently. With --check, the first window
    is run once instead, every node compared with its float64 reference on the same operands; with
    --nan-guard it is run until a node makes a value that is not finite, and that node is saved.
    """
    import dsv4c

    source = Source(prompt, text_file, token_file)
    source.require()
    loaded = dsv4c.load_plan(plan)
    ids = source.ids(loaded)
    if limit is not None:
        ids = ids[: limit + 1]
    if check and nan_guard:
        raise click.UsageError("Give one of --check and --nan-guard.")
    if nan_guard:
        _guard(loaded, ids[:window], save, as_json)
    elif check:
        _check(loaded, ids[:window], as_json)
    else:
        _evaluate(loaded, ids, window, as_json)


def _check(plan: Plan, ids: list[int], as_json: bool) -> None:
    from dsv4c.report.checked import checked_view
    from dsv4c.runtime.check import check

    document = checked_view(check(plan.session(max_sequences=1, max_tokens=len(ids)), ids))
    if as_json:
        emit_json("run", {"plan": str(plan.path), "tokens": len(ids), **document})
    else:
        table(
            ("kind", "runs on", "checks", "failed", "error / bound", "worst node"),
            [
                (k["kind"], k["impl"], k["checks"], k["failed"], k["ratio"], k["worst"])
                for k in document["kinds"]
            ],
        )
    first = document["first"]
    if first is not None:
        raise DsvError(
            "DSV501",
            f"{document['failed']} of {document['checks']} results are beyond their bound",
            where=f"first: %{first['output']} of {first['kind']}, run by {first['impl']}, "
            f"layer {first['layer']}, step {first['step']}",
            expected="|result - reference| at most the bound (ratio <= 1)",
            found="another pattern of NaN or infinity, or other integers"
            if first["ratio"] is None
            else f"ratio {first['ratio']:.3g}",
        )


def _guard(plan: Plan, ids: list[int], save: Path, as_json: bool) -> None:
    from dsv4c.report.guarded import guarded_view
    from dsv4c.runtime.case import write_case
    from dsv4c.runtime.guard import guard

    found = guard(plan.session(max_sequences=1, max_tokens=len(ids)), ids)
    document = guarded_view(found, save)
    if as_json:
        emit_json("run", {"plan": str(plan.path), "tokens": len(ids), **document})
    if found is None:
        if not as_json:
            click.echo(f"{len(ids)} tokens, every value is finite")
        return
    write_case(save, plan, found.captured)
    first = document["first"]
    assert first is not None
    raise DsvError(
        "DSV502",
        f"{first['count']} elements are not finite",
        where=f"first: %{first['output']} of {first['kind']}, run by {first['impl']}, "
        f"layer {first['layer']}, step {first['step']}, sequence {first['slot']}, "
        f"position {first['position']}",
        found=f"{first['value']} at {first['index']}",
        hint=f"its operands are in {save}: python {save}/run.py runs the node alone",
    )


def _evaluate(plan: Plan, ids: list[int], window: int, as_json: bool) -> None:
    from dsv4c.evaluate import evaluate

    session = plan.session(max_sequences=1, max_tokens=min(window, len(ids)))
    with progress() as report:
        result = evaluate(session, ids, window, report)
    figures = {
        "tokens": result.tokens,
        "nats_per_token": result.nats_per_token,
        "perplexity": result.perplexity,
        "top1": result.correct / result.tokens,
    }
    if as_json:
        emit_json("run", {"plan": str(plan.path), "window": window, **figures})
    else:
        pairs(
            {
                name: f"{value:.4f}" if name != "tokens" else f"{value:,}"
                for name, value in figures.items()
            }
        )
