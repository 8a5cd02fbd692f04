"""Tables of docs/performance.md from a document of `dsv4c bench`."""

from __future__ import annotations

from pathlib import Path

from dsv4c.bench.compare import step_name
from dsv4c.bench.results import Bench, KernelRow, StepRow, Time, read_bench
from dsv4c.bench.roofline import roofline


def tables(path: Path) -> tuple[dict[str, str], str]:
    """The bodies of the page's blocks by name, and the picture."""
    found = read_bench(path)
    decode = [step for step in found.steps if step.tokens == step.sequences]
    prefill = [step for step in found.steps if step.tokens > step.sequences]
    blocks = {f"{path.stem} steps": _steps(found), f"{path.stem} kernels": _kernels(decode)}
    if prefill:
        blocks[f"{path.stem} prefill"] = _prefill(prefill[0])
    return blocks, roofline(found)


def _steps(found: Bench) -> str:
    card = found.card
    fp8 = "" if card.fp8 is None else f", fp8 {card.fp8 / 1e12:.0f} TFLOP/s"
    lines = [
        f"{card.name}: copies {card.copy / 1e12:.2f} TB/s, bf16 products "
        f"{card.bf16 / 1e12:.0f} TFLOP/s{fp8}.",
        "",
        "| step | part | kernels | us (quartiles) | floor us | time / floor | tokens/s | TFLOP/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for step in found.steps:
        for layer in step.layers:
            row = (f"layer {layer.layer}, {layer.kind}", layer.kernels, layer.time)
            lines.append(_part(step, *row, layer.floor_us, layer.flops))
        if step.time is not None:
            count = sum(one.nodes for one in step.kernels)
            lines.append(_part(step, "whole step", count, step.time, step.floor_us, None))
    return "\n".join(lines)


def _part(
    step: StepRow, part: str, kernels: int, time: Time, floor: float, flops: float | None
) -> str:
    rate = "-" if flops is None else f"{flops / time.us / 1e6:.1f}"
    return (
        f"| {step_name(step)} | {part} | {kernels} | {time.us:.1f} ({time.low:.1f} to "
        f"{time.high:.1f}) | {floor:.1f} | {time.us / floor:.2f} | "
        f"{step.tokens / time.us * 1e6:,.0f} | {rate} |"
    )


def _kernels(steps: list[StepRow]) -> str:
    """Kernels of decode steps: the same in each, for other numbers of sequences."""
    heads = " | ".join(f"B = {s.sequences}: us | in step | floor / time" for s in steps)
    lines = [
        f"| kernel | nodes | launches | registers | spills | smem | {heads} |",
        "|---|---|---|---|---|---|" + "---|---|---|" * len(steps),
    ]
    for rows in zip(*(step.kernels for step in steps), strict=True):
        one = rows[0]
        facts = f"{one.launches} | {one.registers} | {one.spills} | {one.smem:,}"
        cells = " | ".join(_cell(row) for row in rows)
        lines.append(f"| `{one.kernel}` | {one.nodes} | {facts} | {cells} |")
    return "\n".join(lines)


def _cell(row: KernelRow) -> str:
    inside = "-" if row.in_step_us is None else f"{row.in_step_us:.2f}"
    return f"{row.time.us:.2f} | {inside} | {row.share:.0%}"


def _prefill(step: StepRow) -> str:
    lines = [
        "| kernel | nodes | us | floor us | floor / time | TFLOP/s |",
        "|---|---|---|---|---|---|",
    ]
    for row in step.kernels:
        rate = f"{row.flops / row.time.us / 1e6:.1f}"
        lines.append(
            f"| `{row.kernel}` | {row.nodes} | {row.time.us:.1f} | {row.floor_us:.1f} | "
            f"{row.share:.0%} | {rate} |"
        )
    return "\n".join(lines)
