"""A plan's decode layer beside the same layer in torch: compiled, and transformers' eager.

The torch layers get the plan's weights, decoded to bf16, and its caches as they stand; the streams
before and after the layer are those of a step of the plan. For equal results they are told which
entries and experts the plan chose: near ties are decided otherwise by other roundings, which would
say nothing about the arithmetic. Times are of the torch layers' own choices. Every time is that of
a CUDA graph that leaves nothing in the L2 beforehand, but transformers' eager one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import msgspec
import torch
from torch import Tensor

from dsv4c.bench.peers.plan_layer import PlanLayer, inner_layer, torch_layer, torch_weights
from dsv4c.bench.peers.torch_layer import TorchLayer
from dsv4c.bench.peers.transformers_layer import TransformersLayer
from dsv4c.bench.results import PeerRow, Time
from dsv4c.bench.timing import Call, captured, replay_rounds, spread
from dsv4c.plan.plan import Plan, load_plan
from dsv4c.runtime.chain import Flush

KINDS = ("csa", "hca")
ROUNDS, EAGER_STEPS = 15, 8
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
    for count in sequences:
        ours = PlanLayer(plan, number, count, context)
        case = f"{ours.layer.kind.upper()} layer, B = {count}, {context} tokens"
        weights = weights or torch_weights(ours)
        layer = torch_layer(ours, weights, gather=count == 1)
        for peer, make in (("torch.compile", _compiled), ("transformers", _transformers)):
            try:
                yield msgspec.structs.replace(make(ours, layer, flush), case=case)
            except torch.OutOfMemoryError:
                yield PeerRow(peer, case, note="out of memory")
            torch.compiler.reset()
            torch.cuda.empty_cache()


def _compiled(ours: PlanLayer, layer: TorchLayer, flush: Flush) -> PeerRow:
    given, own, note = ours.given, ours.choices, "bf16, CUDA graph"
    if own.entries is not None:
        note += f"; its own indexer takes {_agreement(ours, layer):.1%} of our entries"
    ratio = _ratio(ours, layer.forward(*given, own.entries, own.experts))
    row = PeerRow("torch.compile", "", peer_ratio=ratio, bound=BOUND, note=note)
    if ratio > 1:
        return msgspec.structs.replace(row, note="results differ")
    compiled = torch.compile(layer.forward, fullgraph=True, dynamic=False)
    for _ in range(3):
        compiled(*given)
    peer = (captured(flush), captured(partial(_after, flush, partial(compiled, *given))))
    time, peer_time = _added(ours.graphs(flush), peer)
    return msgspec.structs.replace(row, time=time, peer_time=peer_time)


def _transformers(ours: PlanLayer, layer: TorchLayer, flush: Flush) -> PeerRow:
    if find_spec("transformers") is None:
        return PeerRow("transformers", "", note="not installed")
    other = TransformersLayer(layer, ours.context)
    with other.choosing(ours.choices.entries, ours.choices.experts):
        ratio = _ratio(ours, other.forward(*ours.given))
    note = f"eager, bf16, version {version('transformers')}"
    row = PeerRow("transformers", "", peer_ratio=ratio, bound=BOUND, note=note)
    if ratio > 1:
        return msgspec.structs.replace(row, note="results differ")
    other = TransformersLayer(layer, ours.context)
    step = partial(other.forward, *ours.given)
    peer_time = spread([_elapsed(step) for _ in range(EAGER_STEPS)][1:])
    (time,) = _added(ours.graphs(flush))
    return msgspec.structs.replace(row, time=time, peer_time=peer_time)


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


def _after(flush: Flush, call: Call) -> None:
    flush()
    call()


def _elapsed(step: Call) -> float:
    """Microseconds of a step, host included."""
    torch.cuda.synchronize()
    begin = perf_counter()
    step()
    torch.cuda.synchronize()
    return (perf_counter() - begin) * 1e6


def _added(*pairs: tuple[torch.cuda.CUDAGraph, torch.cuda.CUDAGraph]) -> list[Time]:
    """Microseconds that the second graph of each pair takes longer, all replayed in turn."""
    found = replay_rounds([graph.replay for pair in pairs for graph in pair], ROUNDS)
    return [
        spread([b - a for a, b in zip(first, second, strict=True)])
        for first, second in zip(found[::2], found[1::2], strict=True)
    ]
