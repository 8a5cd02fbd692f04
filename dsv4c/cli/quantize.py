"""`dsv4c quantize`."""

from __future__ import annotations

from pathlib import Path

import click

from dsv4c.cli.options import debug_option, json_option
from dsv4c.cli.progress import progress
from dsv4c.cli.render import emit_json, table


@click.command("quantize")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("destination", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--experts",
    type=click.Choice(["nvfp4", "mxfp4", "fp8", "bf16"]),
    default="nvfp4",
    show_default=True,
    help="Format of the routed experts.",
)
@click.option(
    "--attention",
    type=click.Choice(["fp8", "fp8-all", "nvfp4", "bf16"]),
    default="fp8",
    show_default=True,
    help="Format of the attention and shared-expert linears; fp8-all: of compressors too.",
)
@click.option("-j", "--jobs", type=click.IntRange(1), help="Threads.  [default: one per processor]")
@json_option
@debug_option
def command(
    source: Path, destination: Path, experts: str, attention: str, jobs: int | None, as_json: bool
) -> None:
    """Write the checkpoint IN to the folder OUT with weights in other formats.

    NVFP4 weights carry the names of ModelOpt; FP8 means blocks of 128x128 with E8M0 scales. MXFP4
    becomes NVFP4 without loss. Prints what became of each class of weights, and the relative error of
    what was rounded. OUT appears when it is whole; after a kill, the same command goes on.
    """
    from dsv4c.checkpoint.quantize import quantize_checkpoint

    with progress(not as_json) as report:
        result = quantize_checkpoint(
            source, destination, experts, attention, progress=report, jobs=jobs
        )
    rows = [
        (one.name, one.format, one.matrices, one.source_bytes, one.bytes, one.relative_error)
        for one in result.classes
    ]
    if as_json:
        names = ("weights", "format", "matrices", "bytes_before", "bytes_after", "relative_error")
        classes = [dict(zip(names, row, strict=True)) for row in rows]
        emit_json("quantize", {"out": str(destination), "classes": classes})
    else:
        table(
            ("weights", "format", "matrices", "bytes before", "bytes after", "relative error"),
            [(*row[:-1], f"{row[-1]:.5f}") for row in rows],
        )
