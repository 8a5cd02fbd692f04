"""`dsv4c bench`."""

from __future__ import annotations

from pathlib import Path

import click

from dsv4c.cli.options import debug_option, json_option
from dsv4c.cli.render import emit_json, pairs, table


@click.command("bench")
@click.argument("plan", type=click.Path(path_type=Path))
@click.option(
    "--sequences",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Sequences of the step.",
)
@click.option(
    "--context",
    type=click.IntRange(1),
    default=512,
    show_default=True,
    help="Tokens that each sequence holds before it.",
)
@json_option
@debug_option
def command(plan: Path, sequences: int, context: int, as_json: bool) -> None:
    """Time every kernel of one decode step of PLAN on this machine's GPU.

    Each is replayed from a CUDA graph with the operands of a real step. Its share is that of the
    rate at which the GPU copies memory, for the bytes that its nodes must move.
    """
    from dataclasses import asdict

    from dsv4c.plan.plan import load_plan
    from dsv4c.runtime.bench import bench

    found = bench(load_plan(plan), sequences, context)
    if as_json:
        emit_json("bench", asdict(found))
        return
    total = sum(one.us * one.nodes for one in found.kernels)
    pairs(
        {
            "sequences": found.sequences,
            "tokens of context": found.context,
            "copy rate, TB/s": round(found.copy_rate / 1e12, 3),
            "step, us": None if found.step_us is None else round(found.step_us, 1),
            "sum of kernels, us": round(total, 1),
            "nodes on torch references": found.reference_nodes,
        }
    )
    table(
        ("kernel", "nodes", "us", "bytes", "share of the copy rate", "share of the sum"),
        [
            (
                one.kernel,
                one.nodes,
                round(one.us, 2),
                round(one.bytes),
                f"{one.share:.1%}",
                f"{one.us * one.nodes / total:.1%}",
            )
            for one in found.kernels
        ],
    )
