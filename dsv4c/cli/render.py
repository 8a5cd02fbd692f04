"""Documents to text: aligned columns that survive a pipe, ruled tables on a terminal, JSON."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence

import click

Cell = str | int | float | None

_NUMBERS = re.compile(r"\[\n[\s\d,.eE+-]+\]")  # a list of numbers, one to a line


def emit_json(command: str, document: Mapping[str, object]) -> None:
    """Print one document, marked with the command's schema."""
    whole = {"schema": f"dsv4c.{command}/1", **document}
    text = json.dumps(whole, indent=2, ensure_ascii=False)
    click.echo(_NUMBERS.sub(lambda match: " ".join(match[0].split()), text))


def table(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Print rows under a header; columns of numbers are aligned to the right."""
    numeric = [
        all(isinstance(row[column], int | float | None) for row in rows)
        for column in range(len(header))
    ]
    cells = [[_text(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _rich_table(header, cells, numeric)
        return
    lines = [list(header), *cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        padded = (
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        )
        click.echo("  ".join(padded).rstrip())


def _rich_table(header: Sequence[str], cells: list[list[str]], numeric: list[bool]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    context = click.get_current_context(silent=True)
    no_color = True if context is not None and context.color is False else None
    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name, right in zip(header, numeric, strict=True):
        drawn.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in cells:
        drawn.add_row(*(Text(text) for text in row))
    Console(no_color=no_color).print(drawn)


def heading(text: str) -> None:
    """Print a section's title after an empty line."""
    click.echo()
    click.secho(text, bold=True)


def pairs(document: Mapping[str, Cell]) -> None:
    """Print names and values in two aligned columns."""
    width = max(map(len, document), default=0)
    for name, value in document.items():
        click.echo(f"{name.ljust(width)}  {_text(value)}".rstrip())


def warn(texts: Sequence[str]) -> None:
    """Print warnings on stderr."""
    for text in texts:
        click.echo(f"warning: {text}", err=True)


def byte_count(size: int) -> str:
    """A size for people: 1,152 B, 74.9 kB, 16.0 MB (powers of 1000)."""
    if size < 10_000:
        return f"{size:,} B"
    value = float(size)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 1000:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.2f} TB"


def layer_list(layers: Sequence[int]) -> str:
    """Layers in ascending order for people: `0-2, 5, 7-60`."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _text(cell: Cell) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.3f}"
    return f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell)
