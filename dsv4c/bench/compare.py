"""Two runs beside each other."""

from __future__ import annotations

from collections.abc import Iterator

from dsv4c.bench.results import Bench, Change, StepRow


def compared(old: Bench, new: Bench) -> list[Change]:
    """Figures of both runs, then those of one only, each in the order of its run."""
    before, after = dict(_figures(old)), dict(_figures(new))
    keys = [key for key in after if key in before]
    keys += [key for key in after if key not in before]
    keys += [key for key in before if key not in after]
    return [_change(key, before.get(key), after.get(key)) for key in keys]


def _change(key: tuple[str, str], old: float | None, new: float | None) -> Change:
    ratio = None if old is None or new is None else new / old
    return Change(*key, old, new, ratio)


def _figures(run: Bench) -> Iterator[tuple[tuple[str, str], float]]:
    card = run.card
    yield ("copy", "TB/s"), card.copy / 1e12
    yield ("bf16 products", "TFLOP/s"), card.bf16 / 1e12
    if card.fp8 is not None:
        yield ("fp8 products", "TFLOP/s"), card.fp8 / 1e12
    for step in run.steps:
        name = step_name(step)
        if step.time is not None:
            yield (f"{name}: step", "us"), step.time.us
        for layer in step.layers:
            yield (f"{name}: layer {layer.layer} ({layer.kind})", "us"), layer.time.us
        for kernel in step.kernels:
            yield (f"{name}: {kernel.kernel}", "us"), kernel.time.us
    for peer in run.peers or ():
        if peer.time is not None and peer.peer_time is not None:
            yield (f"{peer.peer}, {peer.case}", "us"), peer.time.us
            yield (f"{peer.peer}, {peer.case}: the peer", "us"), peer.peer_time.us


def step_name(step: StepRow) -> str:
    """Such as `B = 8, 32768 tokens` or `prefill of 4096`."""
    if step.tokens > step.sequences:
        return f"prefill of {step.tokens}"
    return f"B = {step.sequences}, {step.context} tokens"
