"""`dsv4c quantize`."""

from __future__ import annotations

from pathlib import Path

import click

from dsv4c.cli.options import debug_option
from dsv4c.cli.progress import progress


@click.command("quantize")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("destination", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--experts",
    type=click.Choice(["nvfp4", "mxfp4", "bf16"]),
    default="nvfp4",
    show_default=True,
    help="Format of the routed experts.",
)
@click.option(
    "--attention",
    type=click.Choice(["fp8", "bf16"]),
    default="fp8",
    show_default=True,
    help="Format of the attention and shared-expert linears.",
)
@debug_option
def command(source: Path, destination: Path, experts: str, attention: str) -> None:
    """Write the BF16 checkpoint IN to the folder OUT with smaller weights.

    NVFP4 experts carry the names of ModelOpt; FP8 means blocks of 128x128 with E8M0 scales.
    """
    from dsv4c.checkpoint.quantize import quantize_checkpoint

    with progress() as report:
        quantize_checkpoint(
            source, destination, experts=experts, attention=attention, progress=report
        )
