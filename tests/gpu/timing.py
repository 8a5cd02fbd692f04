"""Times on the device: CUDA-graph replays over input sets that do not fit in the L2."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Sequence

import torch
from harness import DEVICE, Case, Guarded

# Two and a half times the L2 of an H100 beside its own outputs.
ROTATION_BYTES = 220_000_000
MOST_SETS = 64
REPLAYS = 9


def set_count(set_bytes: int) -> int:
    """How many input sets to rotate: more than the L2 holds, at most 64."""
    return max(2, min(MOST_SETS, -(-ROTATION_BYTES // max(set_bytes, 1))))


def time_calls(calls: Sequence[Callable[[], object]]) -> float:
    """Microseconds per call: median over replays of one CUDA graph that runs `calls` in turn."""
    for call in calls[:2]:
        call()
    torch.cuda.synchronize()
    once = _seconds(calls[0])
    count = int(min(max(3e-3 / max(once, 2e-6), len(calls)), 400))
    count = -(-count // len(calls)) * len(calls)
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.graph(graph, stream=stream):
        for i in range(count):
            calls[i % len(calls)]()
    graph.replay()
    times = [_seconds(graph.replay) for _ in range(REPLAYS)]
    return statistics.median(times) * 1e6 / count


def _seconds(call: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) * 1e-3


def copy_rate() -> float:
    """Bytes per second of a large device-to-device copy, read plus written."""
    size = 1 << 28
    buffers = [torch.randint(0, 256, (size,), dtype=torch.uint8, device=DEVICE) for _ in range(4)]
    calls = [lambda i=i: buffers[i].copy_(buffers[i + 1]) for i in (0, 2)]
    return 2 * size / (time_calls(calls) * 1e-6)


def time_kernel(case: Case, kernel: Callable[..., object]) -> float:
    """Microseconds per call of a case's kernel."""
    assert case.bench is not None
    sets: list[list[torch.Tensor]] = []
    for seed in range(set_count(case.bench.bytes)):
        inputs = case.inputs(seed)
        outputs = [Guarded(shape, dtype, 0xFF).tensor for shape, dtype in case.outputs(inputs)]
        sets.append([*inputs, *outputs])
    call = functools.partial(case.call, kernel) if case.call else kernel
    return time_calls([lambda given=given: call(*given) for given in sets])


def time_baseline(case: Case, baseline: Callable[..., object]) -> float:
    """Microseconds per call of another implementation, on the same kind of inputs."""
    assert case.bench is not None
    sets = [case.inputs(seed) for seed in range(set_count(case.bench.bytes))]
    return time_calls([lambda given=given: baseline(*given) for given in sets])
