"""`dsv4c inspect MODEL weights`: a checkpoint told from its headers."""

from __future__ import annotations

from pathlib import Path

import click

from dsv4c.cli.render import byte_count, emit_json, heading, layer_list, pairs, table
from dsv4c.report.contents import ContentsView, contents_view
from dsv4c.report.selection import Selection

_SHOWN = 20  # names of one list


def show_contents(path: Path, selection: Selection, as_json: bool) -> None:
    """Print the weights of a checkpoint folder; then raise what keeps it from being used."""
    view, error = contents_view(path, selection)
    if as_json:
        emit_json("inspect", {"subject": str(path), "view": "weights", **view})
    else:
        _print(view, details=not selection.everything)
    if error is not None:
        raise error


def _print(view: ContentsView, details: bool) -> None:
    size = byte_count(view["bytes"])
    pairs({"files": view["files"], "tensors": view["tensors"], "bytes": size})
    heading("formats")
    table(
        ("format", "weights", "parameters", "bytes"),
        [(f["format"], f["weights"], f["parameters"], f["bytes"]) for f in view["formats"]],
    )
    heading("classes")
    table(
        ("class", "format", "layers", "weights", "tensors", "parameters", "bytes"),
        [
            (
                one["name"],
                one["format"],
                layer_list(one["layers"]),
                one["weights"],
                one["tensors"],
                one["parameters"],
                one["bytes"],
            )
            for one in view["classes"]
        ],
    )
    if details:
        heading("weights")
        table(
            ("weight", "format", "shape", "bytes", "checkpoint tensors"),
            [
                (
                    w["name"],
                    w["format"],
                    "x".join(map(str, w["dims"])),
                    w["bytes"],
                    _few(w["tensors"], 4),
                )
                for w in view["weights"]
            ],
        )
    if view["ignored"]:
        heading("not used")
        rows = [(i["count"], i["bytes"], i["reason"], i["tensors"][0]) for i in view["ignored"]]
        table(("tensors", "bytes", "why", "for example"), rows)
    lists = {"missing": view["missing"], "unknown": view["unused"], "wrong": view["wrong"]}
    for title, names in lists.items():
        if names:
            heading(f"{title}: {len(names):,}")
            click.echo(_few(names, _SHOWN, "\n"))


def _few(names: list[str], count: int, separator: str = ", ") -> str:
    rest = len(names) - count
    return separator.join(names[:count] + [f"and {rest:,} more"] * (rest > 0))
