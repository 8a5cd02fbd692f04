"""`dsv4c cache`."""

from __future__ import annotations

from pathlib import Path

import click

from dsv4c.cli.options import debug_option, json_option, target_option
from dsv4c.cli.render import byte_count, emit_json, heading, table


@click.group("cache")
def command() -> None:
    """Look into the cache of compiled kernels.

    It is the folder DSV4C_CACHE_DIR; dsv4c env shows where.
    """


@command.command("ls")
@json_option
@debug_option
def list_entries(as_json: bool) -> None:
    """List the compiled kernels."""
    from dsv4c.codegen.cache import KernelCache
    from dsv4c.report.kernel_cache import cache_view

    document = cache_view(KernelCache())
    if as_json:
        emit_json("cache.ls", {**document})
        return
    if document["entries"]:
        table(
            ("entry", "target", "bytes", "registers", "compiled in s", "days old", "usable"),
            [
                (
                    *(one["folder"], one["arch"], one["bytes"], one["registers"], one["seconds"]),
                    *(one["age_days"], "yes" if one["usable"] else f"no: {one['reason']}"),
                )
                for one in document["entries"]
            ],
        )
        click.echo()
    count, size = len(document["entries"]), byte_count(document["bytes"])
    click.echo(f"{count} kernels, {size}, in {document['root']}")


@command.command("why")
@click.argument("subject", metavar="PLAN|MODEL", type=click.Path(path_type=Path))
@click.argument("kernel", required=False)
@target_option("What a checkpoint would be compiled for; a plan has its own.")
@json_option
@debug_option
def why(subject: Path, kernel: str | None, target: str, as_json: bool) -> None:
    """Say for each kernel whether it would come from the cache.

    Where it would not: which part of its key differs from the nearest cached kernel of that name,
    and for the source the first lines that do.
    """
    from dsv4c.codegen.cache import KernelCache
    from dsv4c.report.kernel_cache import why_view
    from dsv4c.report.subject import open_subject

    document = why_view(KernelCache(), open_subject(subject, target), kernel)
    if as_json:
        emit_json("cache.why", {"subject": str(subject), **document})
        return
    meaning = {
        "cached": "would be taken from the cache",
        "changed": "would be compiled: the nearest cached kernel differs",
        "damaged": "would be compiled: the cached files do not match their hashes",
        "never": "would be compiled: no kernel of this name is in the cache",
    }
    for number, one in enumerate(document["kernels"]):
        if number and one["parts"]:
            click.echo()
        click.echo(f"{one['kernel']}: {meaning[one['status']]}")
        if one["parts"]:
            heading(one["nearest"])
            table(
                ("part", "cached", "now"),
                [(part["part"], part["cached"], part["now"]) for part in one["parts"]],
            )
            for line in one["lines"]:
                click.echo(f"  {line}")


@command.command("prune")
@click.option("--all", "everything", is_flag=True, help="Remove every kernel.")
@click.option(
    "--older-than", type=click.FloatRange(0), metavar="DAYS", help="Remove older ones too."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@json_option
@debug_option
def prune_entries(everything: bool, older_than: float | None, dry_run: bool, as_json: bool) -> None:
    """Remove kernels that this installation cannot use any more.

    They are damaged, or were made with other compiler versions or options.
    """
    from dsv4c.codegen.cache import KernelCache
    from dsv4c.report.kernel_cache import prune

    document = prune(KernelCache(), everything, older_than, dry_run)
    if as_json:
        emit_json("cache.prune", {"dry_run": dry_run, **document})
        return
    for one in document["removed"]:
        click.echo(f"{one['folder']}: {one['reason'] or 'asked for'}")
    verb = "would be removed" if dry_run else "removed"
    count, size = len(document["removed"]), byte_count(document["bytes"])
    click.echo(f"{count} kernels, {size} {verb}; {document['left']} left in {document['root']}")
