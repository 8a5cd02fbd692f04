"""`dsv4c generate`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from dsv4c.cli.options import debug_option, json_option
from dsv4c.cli.render import emit_json


@click.command("generate")
@click.argument("plan", type=click.Path(path_type=Path))
@click.argument("prompt", required=False)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Stop after this many.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="0 takes the likeliest token.",
)
@click.option(
    "--top-k",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Sample from so many likeliest tokens; 0 for all.",
)
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Sample from the likeliest tokens of this total probability.",
)
@click.option("--seed", type=int, help="Makes sampling repeatable.")
@click.option("--echo", is_flag=True, help="Print the prompt before its continuation.")
@json_option
@debug_option
def command(
    plan: Path,
    prompt: str | None,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int | None,
    echo: bool,
    as_json: bool,
) -> None:
    """Continue PROMPT with the model of PLAN, printing text as it comes.

    Without PROMPT, it is read from standard input.
    """
    import dsv4c
    from dsv4c.tokenizer import Tokenizer

    text = sys.stdin.read() if prompt is None else prompt
    loaded = dsv4c.load_plan(plan)
    tokenizer = Tokenizer.load(loaded.path)
    ids = tokenizer.encode(text)
    session = loaded.session(max_sequences=1, max_tokens=len(ids) + max_new_tokens)

    begin = time.perf_counter()
    stream = tokenizer.stream()
    tokens: list[int] = []
    pieces: list[str] = []

    def emit(piece: str) -> None:
        pieces.append(piece)
        if not as_json:
            click.echo(piece, nl=False)
            sys.stdout.flush()

    if echo and not as_json:
        click.echo(text, nl=False)
    for token in session.generate(
        ids, max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
    ):
        tokens.append(token)
        emit(stream.push(token))
    emit(stream.finish())
    if not as_json:
        click.echo()
        return
    emit_json(
        "generate",
        {
            "plan": str(plan),
            "prompt": text,
            "text": "".join(pieces),
            "prompt_tokens": ids,
            "tokens": tokens,
            "stopped": "end" if len(tokens) < max_new_tokens else "max_new_tokens",
            "seconds": time.perf_counter() - begin,
        },
    )
