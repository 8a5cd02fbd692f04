"""`dsv4c tune`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dsv4c.cli.options import Counts, debug_option, json_option
from dsv4c.cli.progress import progress
from dsv4c.cli.random_model import random_options, refuse_random
from dsv4c.cli.render import emit_json
from dsv4c.cli.tuned import print_built, print_measured, print_verdicts

if TYPE_CHECKING:
    from dsv4c.plan.manifest import Manifest as PlanManifest
    from dsv4c.tune.folder import Manifest
    from dsv4c.tune.results import Results

_FOLDER = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)


class _Names(click.ParamType[list[str]]):
    name = "KIND,..."

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[str]:
        from dsv4c.codegen.spaces import MODULES

        names = str(value).split(",")
        for name in names:
            if name not in MODULES:
                self.fail(f"{name!r} is none of {', '.join(MODULES)}", param, ctx)
        return names


@click.group("tune")
def command() -> None:
    """Measure tiles of kernels, and keep the fastest as data.

    Three steps: build compiles candidates, on a machine without a GPU; measure checks and times them
    on one, without the compiler; apply writes the winners into the data files that kernels take
    their tiles from.
    """


@command.command("build")
@click.argument("plan", metavar="CONFIG|PLAN")
@click.option("-o", "--out", required=True, type=_FOLDER, help="Folder to write.")
@click.option("--kinds", type=_Names(), help="Only kernels of these kinds.  [default: all]")
@click.option(
    "--kernel", "kernels", metavar="GLOB", multiple=True, help="Only kernels of such names."
)
@click.option(
    "--tokens",
    type=Counts(),
    default="1,8,64",
    show_default=True,
    help="T of the steps that are measured: a tile is tried at those that it is for.",
)
@click.option(
    "--context",
    type=click.IntRange(1),
    default=4095,
    show_default=True,
    help="Tokens that each sequence holds before a step.",
)
@click.option(
    "--most",
    type=click.IntRange(1),
    default=6,
    show_default=True,
    help="Candidates of a tile, those like it first.",
)
@click.option(
    "--target",
    type=click.Choice(["sm_90a", "sm_100a"]),
    default="sm_90a",
    show_default=True,
    help="What a CONFIG is compiled for; a plan has its own.",
)
@partial(random_options, layers="one of each kind")
@json_option
@debug_option
@click.pass_context
def build(
    ctx: click.Context,
    plan: str,
    out: Path,
    kinds: list[str] | None,
    kernels: tuple[str, ...],
    tokens: list[int],
    context: int,
    most: int,
    target: str,
    layers: list[int] | None,
    seed: int,
    experts: str,
    attention: str,
    as_json: bool,
) -> None:
    """Compile candidates for the tiles of a model's kernels; needs no GPU.

    CONFIG is flash, pro, a config.json or its folder: a plan with random weights is compiled into the folder.
    Every candidate is legal for its kernel's shape and gives a token the same bits as the present
    tile; only how the work is shared out, and how far ahead it is loaded, differs.
    """
    from dsv4c.tune.build import Wanted, build_folder

    with progress(not as_json) as report:
        make = _plan_maker(ctx, plan, report)
        built = build_folder(out, make, Wanted(tokens, context, kinds or (), kernels, most), report)
    if as_json:
        document = {"folder": str(out), "refused": built.refused}
        emit_json("tune.build", document | _fields(built.manifest))
    else:
        print_built(out, built)


def _plan_maker(
    ctx: click.Context, name: str, report: Callable[[str, int, int], None] | None
) -> Callable[[Path], PlanManifest]:
    """What puts the plan of a CONFIG into the folder, or only reads a PLAN."""
    from dsv4c.bench.run import names_plan

    if names_plan(name):
        refuse_random(ctx, "target")
        return lambda out: _read(Path(name))
    return lambda out: _compiled(ctx, name, out, report)


def _read(path: Path) -> PlanManifest:
    from dsv4c.plan.read import read_plan

    return read_plan(path, check_weights=False).manifest


def _compiled(
    ctx: click.Context,
    name: str,
    out: Path,
    report: Callable[[str, int, int], None] | None,
) -> PlanManifest:
    from dsv4c.api import compile_source
    from dsv4c.bench.run import one_of_each
    from dsv4c.models.deepseek_v4.config import parse_config
    from dsv4c.models.deepseek_v4.released import read_config
    from dsv4c.source import random_source

    given = ctx.params
    layers = given["layers"] or one_of_each(parse_config(read_config(name), name))
    formats = (given["experts"], given["attention"])
    read = partial(random_source, name, layers, given["seed"], *formats)
    return compile_source(read, out, given["target"], progress=report).manifest


@command.command("measure")
@click.argument("folder", type=_FOLDER)
@click.option("-o", "--out", required=True, type=_FILE, metavar="FILE", help="Results to write.")
@click.option("--plan", type=_FOLDER, help="The plan that FOLDER was made for, if not in it.")
@click.option(
    "--limit",
    type=click.IntRange(1, 3600),
    default=20,
    show_default=True,
    metavar="SECONDS",
    help="A candidate that takes longer is lost.",
)
@json_option
@debug_option
def measure(folder: Path, out: Path, plan: Path | None, limit: int, as_json: bool) -> None:
    """Check and time the candidates of FOLDER on this machine's GPU.

    Each must give the very bits of the present tile on the operands of a step before it is timed. A
    candidate that hangs, crashes or writes out of bounds is lost alone.
    """
    from dsv4c.files import require_place, write_whole
    from dsv4c.tune.measure import measure_folder
    from dsv4c.tune.results import encode

    require_place(out)
    with progress(not as_json) as report:
        found = measure_folder(folder, plan, limit, report)
    write_whole(out, encode(found))
    if as_json:
        emit_json("tune.measure", _fields(found))
    else:
        print_measured(found)


def _fields(found: Manifest | Results) -> dict[str, object]:
    """Those of a JSON document, without the schema of the file."""
    import msgspec

    fields: dict[str, object] = msgspec.to_builtins(found)
    del fields["schema"]
    return fields


@command.command("apply")
@click.argument("results", type=_FILE)
@click.option(
    "--into", type=_FOLDER, metavar="DIR", help="Folder of the data files.  [default: this dsv4c's]"
)
@click.option("--dry-run", is_flag=True, help="Only say what would be kept.")
@json_option
@debug_option
def apply(results: Path, into: Path | None, dry_run: bool, as_json: bool) -> None:
    """Write the winners of RESULTS into the data files of tiles.

    A tile wins if the quartiles of its time lie below those of the present tile, by 1 % at least, at
    one T of its bucket, and above them at none; the bucket's upper half must have been measured.
    Compile plans again to use it.
    """
    import msgspec

    from dsv4c.tune.apply import apply_results
    from dsv4c.tune.results import read_results

    found = read_results(results)
    result = apply_results(found, into, dry_run)
    if not as_json:
        print_verdicts(result, dry_run)
        return
    rows = [
        {
            **{"kernel": one.row.kernel, "kind": one.row.kind, "most": one.row.most},
            **{"tile": one.best.tile if one.best else None, "why": one.why},
            "times": [msgspec.to_builtins(time) for time in one.times],
        }
        for one in result
    ]
    emit_json("tune.apply", {"card": found.card.name, "dry_run": dry_run, "tiles": rows})
