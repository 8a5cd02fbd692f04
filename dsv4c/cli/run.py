"""`dsv4c run`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from dsv4c.cli.options import debug_option, json_option
from dsv4c.cli.progress import progress
from dsv4c.cli.render import emit_json, pairs, table
from dsv4c.errors import DsvError

if TYPE_CHECKING:
    from dsv4c.plan.plan import Plan


@click.command("run")
@click.argument("plan", type=click.Path(path_type=Path))
@click.option("--prompt", metavar="TEXT", help="The text itself.")
@click.option(
    "--text",
    "text_file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A file of UTF-8 text.",
)
@click.option(
    "--tokens",
    "token_file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A file of token ids: a JSON list, or numbers apart by white space.",
)
@click.option(
    "--window",
    type=click.IntRange(1),
    default=1024,
    show_default=True,
    help="Tokens predicted from one start.",
)
@click.option("--limit", type=click.IntRange(1), help="Predict at most this many tokens.")
@click.option("--check", is_flag=True, help="Compare every node with its float64 reference.")
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
    as_json: bool,
) -> None:
    """Let PLAN predict a text and print the loss in nats per token.

    The text is cut into windows that are predicted independently. With --check, the first window
    is run once instead, every node compared with its float64 reference on the same operands.
    """
    import dsv4c

    if sum(source is not None for source in (prompt, text_file, token_file)) != 1:
        raise click.UsageError("Give one of --prompt, --text and --tokens.")
    loaded = dsv4c.load_plan(plan)
    if token_file is not None:
        ids = _read_tokens(token_file)
    else:
        text = text_file.read_text(encoding="utf-8") if text_file is not None else prompt or ""
        ids = _encode(loaded, text)
    if not ids:
        raise DsvError("DSV241", "there is nothing to run", expected="at least one token id")
    if limit is not None:
        ids = ids[: limit + 1]
    if check:
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


def _encode(plan: Plan, text: str) -> list[int]:
    from dsv4c.tokenizer import Tokenizer

    return Tokenizer.load(plan.path).encode(text)


def _read_tokens(path: Path) -> list[int]:
    text = path.read_text(encoding="utf-8")
    try:
        ids = json.loads(text) if text.lstrip().startswith("[") else text.split()
        return [int(token) for token in cast("list[int | str]", ids)]
    except (ValueError, TypeError) as error:
        raise DsvError(
            "DSV241",
            "a file does not hold token ids",
            where=str(path),
            expected="a JSON list of integers, or integers apart by white space",
            found=str(error),
        ) from error


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
