"""What the commands share: options, and the state of one call of the command line."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import click

from dsv4c import hardware, settings

F = TypeVar("F", bound=Callable[..., object])


@dataclass(slots=True)
class Invocation:
    """State of one call.

    Attributes:
        debug: the `--debug` flag; None where it was not given.
        started: perf_counter when the call began.
    """

    debug: bool | None = None
    started: float = field(default_factory=time.perf_counter)

    def start(self, ctx: click.Context, color: str) -> None:
        """Apply the group's options, warn about unknown variables, start logging."""
        # torch's idle OpenMP threads spin by default: on a busy machine a step of a small model
        # then takes ten times as long. Read when torch is imported.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        if color == "never" or (color == "auto" and not settings.color_allowed()):
            ctx.color = False
        elif color == "always":
            ctx.color = True
        for name, nearest in settings.unknown_variables():
            hint = f"; did you mean {nearest}?" if nearest else ""
            click.echo(f"warning: {name} is not a variable of dsv4c{hint}", err=True)
        if settings.LOG.resolve().origin != "default":
            _start_logging(settings.log_levels())


def _start_logging(levels: dict[str, str]) -> None:
    import logging

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname).1s %(name)s: %(message)s"))
    logging.getLogger("dsv4c").addHandler(handler)
    for area, level in levels.items():
        logger = logging.getLogger(f"dsv4c.{area}" if area else "dsv4c")
        logger.setLevel(level.upper())


def _set_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().ensure_object(Invocation).debug = True


def debug_option(function: F) -> F:
    """`--debug`, before or after the command's name."""
    return click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_set_debug,
        help="Show the traceback of an error.",
    )(function)


class Counts(click.ParamType[list[int]]):
    """Positive numbers such as 1,8,64."""

    name = "1,8,64"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[int]:
        try:
            counts = [int(number) for number in str(value).split(",")]
        except ValueError:
            counts = []
        if not counts or min(counts) < 1:
            self.fail(f"{value!r} is not a list of positive numbers such as 1,8,64", param, ctx)
        return counts


def options_given(ctx: click.Context, *names: str) -> list[str]:
    """Those of some parameters that were not left at their defaults."""
    default = click.core.ParameterSource.DEFAULT
    return [name for name in names if ctx.get_parameter_source(name) is not default]


def json_option(function: F) -> F:
    """`--json`, passed as `as_json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON document instead of text."
    )(function)


def target_option(meaning: str) -> Callable[[F], F]:
    """`--target`, which may be `auto`."""
    return click.option(
        "--target",
        type=click.Choice(["auto", "cpu", "sm_90a", "sm_100a"]),
        default="auto",
        show_default=True,
        help=f"{meaning} auto: the GPU that is there, else cpu.",
        callback=_resolve_target,
    )


def _resolve_target(ctx: click.Context, param: click.Parameter, value: str) -> str:
    return hardware.default_target() if value == "auto" else value
