"""`dsv4c compile`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dsv4c.cli.options import Invocation, debug_option, json_option, options_given, target_option
from dsv4c.cli.progress import progress
from dsv4c.cli.random_model import RANDOM, random_options
from dsv4c.cli.render import emit_json, heading, table

if TYPE_CHECKING:
    from dsv4c.report.compiled import Compiled


@click.command("compile")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder of the plan."
)
@target_option("What the plan runs on.")
@click.option(
    "--kv-cache",
    type=click.Choice(["fp8", "bf16", "f32"]),
    default="fp8",
    show_default=True,
    help="Format of the cached entries.",
)
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float32"]),
    default="bfloat16",
    show_default=True,
    help="Type of the activations.",
)
@click.option("-j", "--jobs", type=click.IntRange(1), help="Kernels compiled at the same time.")
@click.option(
    "--from",
    "ir_file",
    metavar="FILE.ir",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Start from this graph: an edited file of a plan's ir folder.",
)
@click.option(
    "--kernels",
    "kernel_folder",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Take edited kernels from here: a plan's kernels folder.",
)
@click.option(
    "--synthetic",
    is_flag=True,
    help="MODEL is a config.json, or flash or pro; random weights are made on loading.",
)
@random_options
@click.option("--frozen", is_flag=True, help="Fail where a kernel is not in the cache.")
@json_option
@debug_option
@click.pass_context
def command(
    ctx: click.Context,
    model: Path,
    out: Path,
    target: str,
    kv_cache: str,
    dtype: str,
    jobs: int | None,
    ir_file: Path | None,
    kernel_folder: Path | None,
    synthetic: bool,
    layers: list[int] | None,
    seed: int,
    experts: str,
    attention: str,
    frozen: bool,
    as_json: bool,
) -> None:
    """Compile the checkpoint folder MODEL into a plan.

    Prints which fusions happened, which kernels were generated, and where the time went. An
    existing plan at the same place is replaced when the new one is whole. What was edited by hand
    is marked in the manifest. With --synthetic, a plan for tests and benchmarks that stores no
    weights: they are random, and made on the plan's device when it is loaded.
    """
    given = options_given(ctx, "kv_cache", "dtype")
    if ir_file is not None and given:
        option = given[0].replace("_", "-")
        raise click.UsageError(f"--{option} does not go with --from: the file decides it.")
    given = options_given(ctx, *RANDOM)
    if given and not synthetic:
        raise click.UsageError(f"--{given[0]} goes with --synthetic only.")
    from dsv4c import api, source
    from dsv4c.edits import Edits
    from dsv4c.report.compiled import compiled

    def read() -> source.Source:
        if synthetic:
            return source.random_source(str(model), layers, seed, experts, attention)
        return source.read_source(model)

    with progress(not as_json) as report:
        plan = api.compile_source(
            read,
            out,
            target=target,
            kv_cache=kv_cache,
            dtype=dtype,
            progress=report,
            jobs=jobs,
            frozen=frozen or None,
            edits=Edits(ir_file, kernel_folder),
        )
    document = compiled(
        plan, time.perf_counter() - ctx.find_root().ensure_object(Invocation).started
    )
    if as_json:
        emit_json("compile", document)
    else:
        _print(document)


def _print(document: Compiled) -> None:
    click.echo(f"{document['plan']}: {document['model']} for {document['target']}")
    if document["source_ir"] is not None:
        click.echo(f"compiled from {document['source_ir']}")
    if document["hand_edited"]:
        click.echo(f"edited by hand: {', '.join(document['hand_edited'])}")
    heading("fusions")
    table(
        ("rule", "applied", "refused"),
        [(rule["rule"], rule["applied"], rule["refused"]) for rule in document["rules"]],
    )
    heading("kernels")
    if document["kernels"]:
        table(
            ("kernel", "nodes", "registers", "spill bytes", "shared bytes", "made"),
            [
                (
                    one["name"],
                    one["nodes"],
                    one["registers"],
                    one["spills"],
                    one["smem"],
                    one["status"],
                )
                for one in document["kernels"]
            ],
        )
        click.echo(f"{document['reference_nodes']} nodes have no kernel yet and run on torch")
    else:
        click.echo(f"none: on {document['target']} the planned graph is interpreted")
    heading("time")
    phases = [(phase["phase"], phase["seconds"]) for phase in document["phases"]]
    table(("phase", "seconds"), [*phases, ("total", document["seconds"])])
