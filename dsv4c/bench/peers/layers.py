"""A plan's decode layer beside the same layer in torch: compiled, and transformers' eager.

The torch layers get the plan's weights, decoded to bf16, and its caches as they stand; the streams
before and after the layer are those of a step of the plan. For equal results they are told which
entries and experts the plan chose: near ties are decided otherwise by other roundings, which would
say nothing about the arithmetic. Times are of the torch layers' own choices. Every time is that of
a CUDA graph that leaves nothing in the L2 beforehand, but transformers' eager one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from dsv4c.bench.peers.compare import PeerRow
from dsv4c.bench.peers.plan_layer import PlanLayer, inner_layer, torch_layer
from dsv4c.bench.peers.torch_layer import TorchLayer
from dsv4c.bench.peers.transformers_layer import TransformersLayer
from dsv4c.bench.timing import seconds
from dsv4c.plan.plan import load_plan
from dsv4c.runtime.chain import Flush

ROUNDS, EAGER_STEPS = 15, 12
L2 = 2e-2
BOUND = "relative L2 error of a token's streams 2e-2"


def rows(plan: Path, kind: str, sequences: int, context: int) -> Iterator[PeerRow]:
    """Rows of the plan's first inner layer of a kind.

    Args:
        plan: of Flash or Pro, for this machine's GPU.
        kind: `csa` or `hca`.
        sequences: of the step.
        context: tokens that each holds; whole windows of compressed entries.
    """
    loaded, case = load_plan(plan), f"{kind.upper()} layer, B = {sequences}, {context} tokens"
    number = inner_layer(loaded, kind)
    if number is None:
        yield PeerRow("layers", case, note=f"not in the plan: {kind} between two other layers")
        return
    ours = PlanLayer(loaded, number, sequences, context)
    flush = Flush()
    with torch.inference_mode():
        empty = _captured(flush)
        us = _added(ours.graphs(flush))
        layer = torch_layer(ours, gather=sequences == 1)
        yield from _compiled(ours, layer, case, us, empty, flush)
        yield from _transformers(ours, layer, case, us)


def _compiled(
    ours: PlanLayer,
    layer: TorchLayer,
    case: str,
    us: float,
    empty: torch.cuda.CUDAGraph,
    flush: Flush,
) -> Iterator[PeerRow]:
    given, own, note = ours.given, ours.choices, "bf16, CUDA graph"
    if own.entries is not None:
        note += f"; its own indexer takes {_agreement(ours, layer):.1%} of our entries"
    ratio = _ratio(ours, layer.forward(*given, own.entries, own.experts))
    compiled = torch.compile(layer.forward, fullgraph=True, dynamic=False)
    for _ in range(3):
        compiled(*given)
    peer_us = _added((empty, _captured(partial(_after, flush, partial(compiled, *given)))))
    yield PeerRow(
        "torch.compile",
        case,
        us,
        peer_us,
        peer_ratio=ratio,
        bound=BOUND,
        note=note,
    )


def _transformers(ours: PlanLayer, layer: TorchLayer, case: str, us: float) -> Iterator[PeerRow]:
    if find_spec("transformers") is None:
        yield PeerRow("transformers", case, note="not installed")
        return
    peer = f"transformers {version('transformers')} eager"
    try:
        other = TransformersLayer(layer, ours.context)
        with other.choosing(ours.choices.entries, ours.choices.experts):
            ratio = _ratio(ours, other.forward(*ours.given))
        other = TransformersLayer(layer, ours.context)
        other.forward(*ours.given)
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(EAGER_STEPS):
            other.forward(*ours.given)
        torch.cuda.synchronize()
        peer_us = (time.perf_counter() - begin) * 1e6 / EAGER_STEPS
    except torch.OutOfMemoryError:
        yield PeerRow(peer, case, note="out of memory")
        return
    yield PeerRow(peer, case, us, peer_us, peer_ratio=ratio, bound=BOUND, note="bf16")


def _ratio(ours: PlanLayer, streams: Tensor) -> float:
    """Worst error of a token over the bound."""
    wanted = ours.after.double().flatten(1)
    error = (streams.double().flatten(1) - wanted).norm(dim=1) / wanted.norm(dim=1)
    return float(error.max()) / L2


def _agreement(ours: PlanLayer, layer: TorchLayer) -> float:
    """Share of the plan's entries that the layer's own indexer takes."""
    wanted = ours.choices.entries
    layer.forward(*ours.given)
    assert wanted is not None
    assert layer.taken is not None
    hits = (wanted[:, :, None] == layer.taken[:, None]).any(2)
    return float(hits.float().mean())


def _after(flush: Flush, call: Callable[[], object]) -> None:
    flush()
    call()


def _captured(call: Callable[[], object]) -> torch.cuda.CUDAGraph:
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph


def _added(pair: tuple[torch.cuda.CUDAGraph, torch.cuda.CUDAGraph]) -> float:
    """Microseconds that the second graph takes longer: the median over rounds."""
    times: list[float] = []
    for _ in range(ROUNDS):
        first, second = (seconds(graph.replay) for graph in pair)
        times.append((second - first) * 1e6)
    return statistics.median(times[2:])
