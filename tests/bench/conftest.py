"""A run that was made up."""

from __future__ import annotations

import pytest

from dsv4c.bench.results import Bench, Card, KernelRow, LayerRow, PeerRow, StepRow, Time

CARD = Card("H100", "2.11", 50_000_000, 3.0e12, 750e12, 1400e12)


def time(us: float) -> Time:
    return Time(us, us * 0.9, us * 1.2)


def kernel(name: str, kind: str, us: float, moved: float, flops: float) -> KernelRow:
    floor, bound = CARD.floor_us(moved, flops), CARD.bound(moved, flops)
    times = (time(us), us + 0.5)
    return KernelRow(
        *(name, kind, 2, 1, *times, moved, flops, floor, bound), 60 * moved, 128, 0, 49152
    )


def step(sequences: int, tokens: int = 1) -> StepRow:
    rows = sequences * tokens
    kernels = [
        kernel("linears_a", "linears", 12.0, 30e6, 2e6 * rows),
        kernel("moe_gate_up_b", "moe_gate_up", 26.0, 60e6 * min(rows, 40), 4e6 * rows),
        kernel("topk_entries_c", "topk_entries", 2.0, 100.0 * rows, 0.0),
    ]
    apart = None if tokens > 1 else time(100.0)
    floor = CARD.floor_us(2.1e8, 5e8 * rows)
    layer = LayerRow(2, "csa", 3, time(90.0), 2.1e8, 5e8 * rows, floor, apart)
    whole = None if tokens > 1 else time(144.0)
    return StepRow(sequences, rows, 4095, time(130.0), 80.0, 7, kernels, [layer], 0, whole)


@pytest.fixture
def run() -> Bench:
    peer = PeerRow("FlashMLA", "B = 8", time(16.0), time(18.5), 1000, 0.5, 0.6, "2^-8", "")
    return Bench("synthetic", "sm_90a", CARD, [step(1), step(8), step(8, 512)], [peer])
