"""Text of a bench."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dsv4c.cli.render import Cell, heading, pairs, table

if TYPE_CHECKING:
    from dsv4c.bench.results import Bench, Card, Change, KernelRow, LayerRow, StepRow, Time

_LAYER = ("layer", "kind", "kernels", "us (quartiles)", "without overlap us")
_LAYER_FACTS = ("floor us", "time / floor", "MB", "tokens/s", "TFLOP/s")
_KERNEL = ("kernel", "nodes", "launches", "us (quartiles)", "in step us", "floor us", "share")
_FACTS = ("bound", "MB", "GFLOP", "TFLOP/s", "registers", "spills", "smem")


def print_bench(found: Bench, changes: list[Change] | None) -> None:
    """Print a run, and its ratios to an earlier one."""
    card = found.card
    pairs(
        {
            "plan": f"{found.plan} for {found.target}",
            "card": card.name,
            "copy, read + write": f"{card.copy / 1e12:.2f} TB/s",
            "bf16 products": f"{card.bf16 / 1e12:.0f} TFLOP/s",
            "fp8 products": None if card.fp8 is None else f"{card.fp8 / 1e12:.0f} TFLOP/s",
        }
    )
    for step in found.steps:
        _print_step(step, card)
    if found.peers is not None:
        _print_peers(found)
    if changes is not None:
        heading("beside the earlier run")
        table(
            ("figure", "unit", "old", "new", "new / old"),
            [(one.what, one.unit, one.old, one.new, one.ratio) for one in changes],
        )


def _print_step(step: StepRow, card: Card) -> None:
    if step.tokens > step.sequences:
        each = step.tokens // step.sequences
        heading(
            f"prefill, {step.tokens:,} tokens: sequences {step.sequences}, of {each} each, "
            f"tokens before the step {step.context:,}"
        )
    else:
        heading(f"decode: sequences {step.sequences}, tokens before the step {step.context:,}")
    total = sum(one.time.us * one.nodes for one in step.kernels)
    pairs(
        {
            "step as one CUDA graph, us": None if step.time is None else _spread(step.time),
            "floor, us": f"{step.floor_us:.1f}",
            "kernels one by one, us": f"{total:.1f}",
            "launches": step.launches,
            "without overlap of kernels, us": None if step.apart is None else _spread(step.apart),
            "overlap saves a launch, us": None if step.saved_us is None else f"{step.saved_us:.2f}",
            "nodes on torch references": step.reference_nodes,
        }
    )
    if step.layers:
        click.echo()
        rows = [_layer(one, step.tokens) for one in step.layers]
        table((*_LAYER, *_LAYER_FACTS), rows)
    click.echo()
    table((*_KERNEL, *_FACTS), [_kernel(one, card) for one in step.kernels])
    if any(one.rotated <= card.l2 for one in step.kernels):
        click.echo("* what its calls move in turn fits the L2, so they may beat memory")


def _kernel(one: KernelRow, card: Card) -> tuple[Cell, ...]:
    return (
        one.kernel + ("" if one.rotated > card.l2 else " *"),
        one.nodes,
        one.launches,
        _spread(one.time),
        None if one.in_step_us is None else round(one.in_step_us, 2),
        round(one.floor_us, 2),
        f"{one.share:.0%}",
        one.bound,
        round(one.bytes / 1e6, 3),
        round(one.flops / 1e9, 3),
        round(one.flops / one.time.us / 1e6, 1),
        one.registers,
        one.spills,
        one.smem,
    )


def _layer(one: LayerRow, tokens: int) -> tuple[Cell, ...]:
    return (
        one.layer,
        one.kind,
        one.kernels,
        _spread(one.time),
        None if one.apart is None else round(one.apart.us, 1),
        f"{one.floor_us:.1f}",
        f"{one.ratio:.2f}",
        f"{one.bytes / 1e6:.1f}",
        f"{tokens / one.time.us * 1e6:,.0f}",
        f"{one.flops / one.time.us / 1e6:.1f}",
    )


def _spread(time: Time) -> str:
    return f"{time.us:.2f} ({time.low:.2f} to {time.high:.2f})"


def _print_peers(found: Bench) -> None:
    heading("beside other implementations, in the same run")
    table(
        ("peer", "case", "us (quartiles)", "its us", "its / ours", "error", "its error", "note"),
        [
            (
                one.peer,
                one.case,
                None if one.time is None else _spread(one.time),
                None if one.peer_time is None else _spread(one.peer_time),
                one.speedup,
                one.ratio,
                one.peer_ratio,
                one.note,
            )
            for one in found.peers or ()
        ],
    )
