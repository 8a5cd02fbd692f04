"""The `dsv4c` command: a group whose commands are imported only when they are called.

Data goes to stdout, everything else to stderr. Exit codes: 0 ok, 1 internal error, 2 usage,
3 invalid input, 4 unsupported, 5 compile failed, 6 numeric check failed, 7 device, disk or
run time, 130 interrupted.
"""

from __future__ import annotations

from importlib import import_module

import click

from dsv4c import __version__
from dsv4c.cli.errors import guard
from dsv4c.cli.options import Invocation, debug_option

COMMANDS = {
    "bench": "Time kernels and layers on the GPU of this machine.",
    "cache": "List, explain and prune compiled kernels.",
    "compile": "Compile a checkpoint into a plan folder.",
    "diff": "Show what differs between two plans.",
    "env": "Show settings, versions and devices.",
    "explain": "Say what something in a plan is and where it comes from.",
    "generate": "Continue a prompt.",
    "inspect": "Look into a plan or a checkpoint.",
    "quantize": "Write a checkpoint with smaller weights.",
    "report": "Write a plan as one HTML page, or for other viewers.",
    "repro": "Cut a kernel or node out of a plan, to run alone.",
    "run": "Evaluate a text, or check every node of a plan.",
    "synth": "Write a checkpoint with random weights.",
    "tune": "Measure tiles of kernels, and keep the fastest as data.",
}


class LazyGroup(click.Group):
    """Lists commands from `COMMANDS`; `dsv4c.cli.<name>.command` is loaded on the first call."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"dsv4c.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            raise click.NoSuchCommand(name, possibilities=list(COMMANDS), ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> object:
        with guard(ctx):
            return super().invoke(ctx)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dsv4c")
@click.option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="When to colour; NO_COLOR is respected.",
)
@debug_option
@click.pass_context
def main(ctx: click.Context, color: str) -> None:
    """Compile DeepSeek-V4 into a plan of named kernels, inspect it, run it."""
    ctx.ensure_object(Invocation).start(ctx, color)
