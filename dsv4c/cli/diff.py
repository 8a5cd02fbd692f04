"""`dsv4c diff`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dsv4c.cli.options import debug_option, json_option, target_option
from dsv4c.cli.render import emit_json, heading, layer_list, table
from dsv4c.cli.tokens import Source, token_options
from dsv4c.errors import DsvError

if TYPE_CHECKING:
    from dsv4c.report.compared import NumericDiff
    from dsv4c.report.diff import Diff, NodeChange, NodesDiff, Pair


@click.command("diff")
@click.argument("a", metavar="A", type=click.Path(path_type=Path))
@click.argument("b", metavar="B", type=click.Path(path_type=Path))
@click.option("--numeric", is_flag=True, help="Run both, node by node, to the first difference.")
@token_options
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=1024,
    show_default=True,
    help="With --numeric: run at most this many tokens.",
)
@target_option("What checkpoints would be compiled for; plans have their own.")
@json_option
@debug_option
def command(
    a: Path,
    b: Path,
    numeric: bool,
    prompt: str | None,
    text_file: Path | None,
    token_file: Path | None,
    limit: int,
    target: str,
    as_json: bool,
) -> None:
    """Show what differs between A and B, plans or checkpoint folders.

    Compiler inputs, nodes, kernels, order, bytes and cost. With --numeric both plans run on the
    same tokens instead, aligned by the names of values, and the first node of B whose result is
    beyond its bound is named (exit code 6). Without a text, 160 fixed random tokens are taken.
    """
    source = Source(prompt, text_file, token_file)
    if numeric:
        _numeric(a, b, source, limit, as_json)
        return
    if source.given:
        raise click.UsageError("A text is for --numeric.")
    from dsv4c.report.diff import diff_view
    from dsv4c.report.subject import open_subject

    document = diff_view(open_subject(a, target), open_subject(b, target))
    if as_json:
        emit_json("diff", {"a": str(a), "b": str(b), **document})
    else:
        _print(document)


def _numeric(a: Path, b: Path, source: Source, limit: int, as_json: bool) -> None:
    import dsv4c
    from dsv4c.report.compared import compared_view
    from dsv4c.runtime.compare import compare

    plans = [dsv4c.load_plan(path) for path in (a, b)]
    ids = source.ids_or_random(plans[0])[:limit]
    one, other = (plan.session(max_sequences=1, max_tokens=len(ids)) for plan in plans)
    document = compared_view(compare(one, other, ids))
    if as_json:
        emit_json("diff", {"a": str(a), "b": str(b), "tokens": len(ids), **document})
    else:
        _print_numeric(document)
    if (first := document["first"]) is not None:
        raise DsvError(
            "DSV501",
            "the plans differ by more than rounding explains",
            where=f"first: %{first['value']}, made by %{first['node']} ({first['kind']}, run by "
            f"{first['impl']}), layer {first['layer']}, step {first['step']}",
            expected="|b - a| at most twice the bound of one node (ratio <= 1)",
            found="other integers, another shape, or another pattern of NaN"
            if first["ratio"] is None
            else f"ratio {first['ratio']:.3g}",
            hint=f"dsv4c explain {b} {first['node']}; dsv4c repro {b} {first['node']} -o DIR",
        )


def _print_numeric(document: NumericDiff) -> None:
    table(
        ("kind", "values", "not equal", "difference / bound", "worst value"),
        [
            (one["kind"], one["values"], one["unequal"], one["ratio"], one["worst"])
            for one in document["kinds"]
        ],
    )
    click.echo(f"\n{document['values']} values compared, {document['unequal']} not bit for bit")


def _print(document: Diff) -> None:
    if document["equal"]:
        click.echo("no difference")
    if document["inputs"]:
        click.secho("compiler inputs", bold=True)
        _pairs(document["inputs"])
    heading("nodes")
    _nodes(document["nodes"])
    heading("kernels")
    kernels = document["kernels"]
    click.echo(f"{kernels['same']} the same")
    for side in ("only_a", "only_b"):
        for name in kernels[side]:
            click.echo(f"{side.replace('_', ' ')}: {name}")
    _changes(kernels["changed"])
    heading("schedule")
    first = document["schedule"]["at_first"]
    steps = f"{document['schedule']['a']} and {document['schedule']['b']} steps"
    place = f"; first difference at {first['what']}: {first['a']} / {first['b']}" if first else ""
    click.echo(steps + (place or ", the same order"))
    for name in ("bytes", "cost"):
        heading(name)
        _pairs(document[name])


def _pairs(pairs: Sequence[Pair]) -> None:
    table(("what", "A", "B"), [(pair["what"], pair["a"], pair["b"]) for pair in pairs])


def _nodes(nodes: NodesDiff) -> None:
    from dsv4c.report.diff import family

    click.echo(f"{nodes['same']} the same, {len(nodes['changed'])} changed")
    for side in ("only_a", "only_b"):
        groups: dict[str, int] = {}
        for name in nodes[side]:
            groups[family(name)] = groups.get(family(name), 0) + 1
        for name, count in groups.items():
            click.echo(f"{side.replace('_', ' ')}: {count} x {name}")
    _changes(nodes["changed"])


def _changes(changed: Sequence[NodeChange]) -> None:
    """Equal changes of several layers together."""
    from dsv4c.report.diff import family

    groups: dict[tuple[str, str, str, str], list[int]] = {}
    for one in changed:
        for pair in one["changes"]:
            what, a, b = (family(str(text)) for text in (pair["what"], pair["a"], pair["b"]))
            layers = groups.setdefault((family(one["node"]), what, a, b), [])
            layers += [one["layer"]] if one["layer"] is not None else []
    if groups:
        table(
            ("changed", "layers", "what", "A", "B"),
            [
                (name, layer_list(layers) or "-", what, a, b)
                for (name, what, a, b), layers in groups.items()
            ],
        )
