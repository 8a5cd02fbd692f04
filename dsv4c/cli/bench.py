"""`dsv4c bench`."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dsv4c.cli.benched import print_bench
from dsv4c.cli.options import Counts, debug_option, json_option
from dsv4c.cli.progress import progress
from dsv4c.cli.random_model import RANDOM, random_options, refuse_random
from dsv4c.cli.render import emit_json

if TYPE_CHECKING:
    from dsv4c.bench.run import Progress
    from dsv4c.plan.plan import Plan

_OUTPUT = click.Path(path_type=Path, dir_okay=False)


@click.command("bench")
@click.argument("plan", metavar="PLAN|CONFIG")
@click.option(
    "--sequences", type=Counts(), default="1", show_default=True, help="Of the decode steps."
)
@click.option(
    "--context",
    type=click.IntRange(1),
    default=4095,
    show_default=True,
    help="Tokens that each sequence holds before a decode step.",
)
@click.option(
    "--prefill",
    type=click.IntRange(1),
    metavar="T",
    help="Time a step of T tokens too, of sequences that hold as many.",
)
@click.option(
    "--kernel", metavar="GLOB", default="*", help="Time only these kernels by themselves."
)
@partial(random_options, layers="one of each kind")
@click.option(
    "--peers",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="Time other implementations too, whose libraries are here.",
)
@click.option("--out", type=_OUTPUT, metavar="FILE", help="Write the JSON document here too.")
@click.option("--svg", type=_OUTPUT, metavar="FILE", help="Write a roofline picture here.")
@click.option(
    "--compare",
    "old",
    type=_OUTPUT,
    metavar="OLD.json",
    help="Show the ratios to an earlier run's document.",
)
@json_option
@debug_option
@click.pass_context
def command(
    ctx: click.Context,
    plan: str,
    sequences: list[int],
    context: int,
    prefill: int | None,
    kernel: str,
    layers: list[int] | None,
    seed: int,
    experts: str,
    attention: str,
    peers: Path | None,
    out: Path | None,
    svg: Path | None,
    old: Path | None,
    as_json: bool,
) -> None:
    """Time every kernel and layer of PLAN on this machine's GPU.

    Caches and token ids are random. Instead of a plan, CONFIG is flash, pro, a config.json or
    its folder: a plan with random weights is compiled for the run. The card is measured first; the floor of a kernel is
    the larger of its bytes at the copy rate and its FLOPs at the rate of large bf16 products.
    """
    from dsv4c.bench.compare import compared
    from dsv4c.bench.results import document, encode, read_bench
    from dsv4c.bench.run import Wanted, names_plan, run_bench
    from dsv4c.files import require_place, write_whole

    if names_plan(plan):
        refuse_random(ctx)
    before = read_bench(old) if old is not None else None
    for path in filter(None, (out, svg)):
        require_place(path)
    with progress(not as_json) as report, _plan(ctx, plan, report) as loaded:
        found = run_bench(loaded, Wanted(sequences, context, prefill, peers, kernel), report)
    changes = compared(before, found) if before is not None else None
    if out is not None:
        write_whole(out, encode(found, changes))
    if svg is not None:
        from dsv4c.bench.roofline import roofline

        write_whole(svg, roofline(found).encode())
    if as_json:
        emit_json("bench", document(found, changes))
    else:
        print_bench(found, changes)


@contextlib.contextmanager
def _plan(ctx: click.Context, name: str, report: Progress | None) -> Generator[Plan]:
    """The plan, or one that is compiled for the run and deleted after it."""
    from dsv4c.bench.run import compile_config, names_plan
    from dsv4c.plan.plan import load_plan

    if names_plan(name):
        yield load_plan(Path(name))
        return
    random = {key: ctx.params[key] for key in RANDOM}
    with tempfile.TemporaryDirectory(prefix="dsv4c-bench-") as folder:
        yield compile_config(name, Path(folder) / Path(name).stem, **random, report=report)
