"""`dsv4c synth`."""

from __future__ import annotations

from pathlib import Path

import click

from dsv4c.cli.options import debug_option, json_option
from dsv4c.cli.progress import progress
from dsv4c.cli.random_model import random_options
from dsv4c.cli.render import emit_json


@click.command("synth")
@click.argument("config", metavar="CONFIG")
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@random_options
@click.option("-j", "--jobs", type=click.IntRange(1), help="Threads.  [default: one per processor]")
@json_option
@debug_option
def command(
    config: str,
    out: Path,
    layers: list[int] | None,
    seed: int,
    experts: str,
    attention: str,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Write a checkpoint of the model of CONFIG with random weights to the folder OUT.

    CONFIG is a config.json, or flash or pro for the released sizes. Chosen layers keep their kind and
    are renumbered from 0; their weights depend on the seed and their old number only. Weights have
    statistics near those of trained ones, for tests and benchmarks.
    """
    from dsv4c.checkpoint.synth import synthesize

    with progress(not as_json) as report:
        size = synthesize(
            *(config, out, layers, seed, experts, attention), jobs=jobs, progress=report
        )
    if as_json:
        emit_json("synth", {"out": str(out), "bytes": size})
    else:
        click.echo(f"{out}: {size:,} bytes of weights")
