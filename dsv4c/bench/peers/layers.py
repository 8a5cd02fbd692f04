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
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from dsv4c.bench.peers.compare import PeerRow
from dsv4c.bench.peers.plan_layer import PlanLayer, inner_layer, torch_layer, torch_weights
from dsv4c.bench.peers.torch_layer import TorchLayer
from dsv4c.bench.peers.transformers_layer import TransformersLayer
from dsv4c.bench.timing import captured, seconds
from dsv4c.plan.plan import Plan, load_plan
from dsv4c.runtime.chain import Flush

KINDS = ("csa", "hca")
ROUNDS, EAGER_STEPS = 15, 6
WINDOW = 128  # tokens of an HCA entry
L2 = 2e-2
BOUND = "relative L2 error of a token's streams 2e-2"


def rows(plan: Path, sequences: Sequence[int], context: int) -> Iterator[PeerRow]:
    """Rows of the plan's first inner layer of each kind.

    Args:
        plan: of Flash or Pro, for this machine's GPU.
        sequences: of the steps.
        context: tokens that each holds; rounded down to whole windows of compressed entries.
    """
    loaded, context = load_plan(plan), context // WINDOW * WINDOW
    for kind in KINDS:
        number = inner_layer(loaded, kind)
        if number is None:
            name = f"{kind.upper()} layer"
            yield PeerRow("layers", name, note="the plan has none between two other layers")
            continue
        with torch.inference_mode():
            yield from _kind(loaded, number, sequences, context)


def _kind(plan: Plan, number: int, sequences: Sequence[int], context: int) -> Iterator[PeerRow]:
    weights, flush = None, Flush()
    empty = captured(flush)
    for count in sequences:
        ours = PlanLayer(plan, number, count, context)
        case = f"{ours.layer.kind.upper()} layer, B = {count}, {context} tokens"
        us = _added(ours.graphs(flush))
        weights = weights or torch_weights(ours)
        try:
            layer = torch_layer(ours, weights, gather=count == 1)
            yield from _compiled(ours, layer, case, us, empty, flush)
            yield from _transformers(ours, layer, case, us)
        except torch.OutOfMemoryError:
            yield PeerRow("torch", case, us, note="out of memory")
        torch.compiler.reset()
        torch.cuda.empty_cache()


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
    peer_us = _added((empty, captured(partial(_after, flush, partial(compiled, *given)))))
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


def _added(pair: tuple[torch.cuda.CUDAGraph, torch.cuda.CUDAGraph]) -> float:
    """Microseconds that the second graph takes longer: the median over rounds."""
    times: list[float] = []
    for _ in range(ROUNDS):
        first, second = (seconds(graph.replay) for graph in pair)
        times.append((second - first) * 1e6)
    return statistics.median(times[2:])
