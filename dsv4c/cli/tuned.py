"""Text of `dsv4c tune`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dsv4c.cli.render import Cell, pairs, table, warn

if TYPE_CHECKING:
    from dsv4c.bench.results import Time
    from dsv4c.report.kernels import TileView
    from dsv4c.tune.apply import Verdict
    from dsv4c.tune.build import Built
    from dsv4c.tune.folder import Bucket
    from dsv4c.tune.results import BucketRow, Measured, Results

Values = Mapping[str, int | bool | str]


def print_built(out: Path, built: Built) -> None:
    """What a tuning folder holds."""
    read = built.manifest
    table(
        ("kernel", "most", "T", "tile", "candidates"),
        [
            (one.kernel, _most(one), _tokens(one.tokens), _values(one.tile), len(one.candidates))
            for one in read.buckets
        ],
    )
    warn([f"left out, it does not compile: {name}" for name in built.refused])
    count = sum(len(one.candidates) for one in read.buckets)
    click.echo(f"\n{count} candidates for {read.target} in {out}")
    plan = "" if read.plan else " --plan PLAN"
    click.echo(f"on a machine with a GPU: dsv4c tune measure {out}{plan} -o RESULTS.json")


def print_measured(found: Results) -> None:
    """Every candidate beside the present tile."""
    pairs(
        {
            "model": f"{found.model} for {found.target}",
            "card": found.card.name,
            "copy, read + write": f"{found.card.copy / 1e12:.2f} TB/s",
        }
    )
    for row in found.buckets:
        click.echo()
        click.secho(f"{row.kernel}, up to {_most(row)} tokens", bold=True)
        table(
            ("T", "tile", "us (quartiles)", "present beside", "present / it", "problem"), _rows(row)
        )


def _rows(row: BucketRow) -> list[tuple[Cell, ...]]:
    rows = [("present", one) for one in row.present]
    rows += [(_changes(row.tile, each.tile), one) for each in row.candidates for one in each.measured]  # fmt: skip
    return [
        (one.tokens, what, _spread(one.time), _spread(one.beside), _ratio(one), one.problem or None)
        for what, one in sorted(rows, key=lambda pair: pair[1].tokens)
    ]


def _spread(time: Time | None) -> str | None:
    return f"{time.us:.2f} ({time.low:.2f} to {time.high:.2f})" if time else None


def _ratio(one: Measured) -> float | None:
    return one.beside.us / one.time.us if one.time and one.beside else None


def print_verdicts(result: Sequence[Verdict], dry_run: bool) -> None:
    """What was kept, and why."""
    table(
        ("kernel", "most", "tile", "us, T by T", "verdict"),
        [
            (
                one.row.kernel,
                _most(one.row),
                _changes(one.row.tile, one.best.tile) if one.best else "present",
                ", ".join(f"{t.tokens}: {t.us:.2f} of {t.beaten_us:.2f}" for t in one.times),
                one.why,
            )
            for one in result
        ],
    )
    count = sum(one.best is not None for one in result)
    tiles = "1 tile" if count == 1 else f"{count} tiles"
    click.echo(f"\n{tiles} {'would be ' if dry_run else ''}kept")


def print_tiles(tiles: Sequence[TileView], *kernels: str) -> None:
    """Tiles and where they are from; `kernels` names that of each in another column."""
    rows: list[tuple[Cell, ...]] = [
        (one["kind"], str(one["most"] or "any"), _values(one["values"]), one["origin"])
        for one in tiles
    ]
    header = ("kind", "up to T", "tile", "from")
    if kernels:
        header, rows = ("kernel", *header), [(n, *row) for n, row in zip(kernels, rows, strict=True)]  # fmt: skip
    table(header, rows)


def _most(row: Bucket | BucketRow) -> str:
    return str(row.most or "any")


def _tokens(tokens: Sequence[int]) -> str:
    return ",".join(map(str, tokens))


def _values(values: Values) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items())


def _changes(old: Values, new: Values) -> str:
    """What of a tile is other than in the present one."""
    return _values({name: value for name, value in new.items() if value != old.get(name)})
