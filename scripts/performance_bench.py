"""Tables of docs/performance.md from a document of `dsv4c bench`."""

from __future__ import annotations

from dsv4c.bench.compare import step_name
from dsv4c.bench.results import Bench, KernelRow, LayerRow, StepRow


def tables(name: str, found: Bench) -> dict[str, str]:
    """The bodies of the page's blocks by name."""
    decode = [step for step in found.steps if step.tokens == step.sequences]
    prefill = [step for step in found.steps if step.tokens > step.sequences]
    blocks = {f"{name} steps": _steps(found), f"{name} kernels": _kernels(decode)}
    if prefill:
        blocks[f"{name} prefill"] = _prefill(prefill[0])
    return blocks


def _steps(found: Bench) -> str:
    card = found.card
    fp8 = "" if card.fp8 is None else f", fp8 {card.fp8 / 1e12:.0f} TFLOP/s"
    lines = [
        f"{card.name}: copies {card.copy / 1e12:.2f} TB/s, bf16 products "
        f"{card.bf16 / 1e12:.0f} TFLOP/s{fp8}.",
        "",
        "| step | part | kernels | us (quartiles) | without overlap us | floor us | time / floor "
        "| tokens/s | TFLOP/s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for step in found.steps:
        for layer in step.layers:
            rate = f"{layer.flops / layer.time.us / 1e6:.1f}"
            lines.append(
                _part(step, layer, f"layer {layer.layer}, {layer.kind}", layer.kernels, rate)
            )
        count = sum(one.nodes for one in step.kernels)
        lines.append(_part(step, step, "whole step", count, "-"))
    return "\n".join(lines)


def _part(step: StepRow, part: StepRow | LayerRow, name: str, kernels: int, rate: str) -> str:
    assert part.time is not None, "a plan whose nodes all have kernels"
    time, apart = part.time, "-" if part.apart is None else f"{part.apart.us:.1f}"
    return (
        f"| {step_name(step)} | {name} | {kernels} | {time.us:.1f} ({time.low:.1f} to "
        f"{time.high:.1f}) | {apart} | {part.floor_us:.1f} | {time.us / part.floor_us:.2f} | "
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
