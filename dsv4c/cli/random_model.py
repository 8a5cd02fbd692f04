"""Options of commands that make a model with random weights."""

from __future__ import annotations

from collections.abc import Callable

import click

from dsv4c.cli.options import options_given


class _Layers(click.ParamType[list[int]]):
    name = "0,2,3"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[int]:
        try:
            return [int(number) for number in str(value).split(",")]
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 0,2,3", param, ctx)


RANDOM = ("layers", "seed", "experts", "attention")


def refuse_random(ctx: click.Context, *more: str) -> None:
    """Raise click.UsageError if an option of random weights, or one of `more`, was given with a plan."""
    if given := options_given(ctx, *RANDOM, *more):
        raise click.UsageError(f"--{given[0]} goes with a CONFIG only: a plan has its own.")


def random_options(command: Callable[..., None], layers: str = "all") -> Callable[..., None]:
    """`--layers`, `--seed`, `--experts` and `--attention`; `layers` says what is taken by default."""
    for option in (
        click.option(
            "--attention",
            type=click.Choice(["fp8", "bf16", "nvfp4"]),
            default="fp8",
            show_default=True,
            help="Format of the attention and shared-expert linears.",
        ),
        click.option(
            "--experts",
            type=click.Choice(["nvfp4", "mxfp4", "fp8", "bf16"]),
            default="nvfp4",
            show_default=True,
            help="Format of the routed experts.",
        ),
        click.option("--seed", type=int, default=0, show_default=True, help="Seed of the weights."),
        click.option("--layers", type=_Layers(), help=f"Layers to take.  [default: {layers}]"),
    ):
        command = option(command)
    return command
