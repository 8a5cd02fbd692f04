"""One layer of a plan's decode step, and a `TorchLayer` with its weights and caches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor

from dsv4c.bench.peers.torch_layer import Compressor, Dims, TorchLayer, Weights
from dsv4c.bench.step import layer_spans
from dsv4c.bench.timing import captured
from dsv4c.ir.formats import hadamard
from dsv4c.ir.ops.rope import rope_frequencies
from dsv4c.ir.types import CacheType
from dsv4c.ir.values import Operand, Weight
from dsv4c.models.deepseek_v4.build import PAGE_TOKENS
from dsv4c.models.deepseek_v4.config import LayerConfig, load_config
from dsv4c.plan.plan import Plan
from dsv4c.runtime.batch import Rows
from dsv4c.runtime.chain import Step
from dsv4c.runtime.context import fill_context


@dataclass(frozen=True)
class Choices:
    """What a step chose: entries [B, k] by number in their sequence, experts [B, top_k], i64."""

    entries: Tensor | None
    experts: Tensor


def inner_layer(plan: Plan, kind: str) -> int | None:
    """The first layer of a kind that has a layer before and one behind it."""
    layers = load_config(plan.path).layers
    inner = (i for i, one in enumerate(layers) if one.kind == kind and 0 < i < len(layers) - 1)
    return next(inner, None)


class PlanLayer:
    """A layer between two others in a decode step.

    Args:
        plan: for this machine's GPU.
        number: of the layer, `csa` or `hca`.
        sequences: of the step.
        context: tokens that each holds.

    Attributes:
        given: streams before the layer, positions, token ids.
        after: streams behind it.
        choices: of the step.
    """

    def __init__(self, plan: Plan, number: int, sequences: int, context: int) -> None:
        self.config = load_config(plan.path)
        self.number, self.context, self.sequences = number, context, sequences
        self.session = plan.session(sequences, context + 2)
        slots = fill_context(self.session, sequences, context)
        with torch.inference_mode():
            batch = [Rows(slot, context, [slot + 1], 1) for slot in slots]
            inputs = self.session.prepare(batch)
            self._table = inputs["block_table"].clone()[torch.tensor(slots)].long()
            self._step = Step(self.session, inputs)
        self._values: dict[str, Operand] = {}
        for node, operands in self._step.nodes:
            self._values.update(zip(node.inputs, operands, strict=True))
        ids, pos = (inputs[name].long() for name in ("ids", "pos"))
        self.given = (self._tensor(f"L{self.number - 1}.ffn.streams"), pos, ids)
        self.after = self._tensor(f"L{self.number}.ffn.streams")
        self.choices = Choices(self._entries(), self._experts())

    @property
    def layer(self) -> LayerConfig:
        return self.config.layers[self.number]

    def graphs(
        self, before: Callable[[], object]
    ) -> tuple[torch.cuda.CUDAGraph, torch.cuda.CUDAGraph]:
        """Graphs of the step's nodes up to the layer, and up to its end."""
        first, end = layer_spans([node for node, _ in self._step.nodes])[self.number]
        before_it, with_it = (
            captured(partial(self._step.prefix, count, before)) for count in (first, end)
        )
        return before_it, with_it

    def weight(self, name: str) -> Weight:
        return cast(Weight, self.session.executor.constants[f"layers.{self.number}.{name}"])

    def window(self) -> Tensor:
        """Keys of the last tokens, f32 [B, window, width], token p at p % window."""
        state = self.session.executor.states[f"L{self.number}.attn.window"]
        index = self._window_index()
        type_ = cast(CacheType, state.type)
        rows = type_.layout.gather(state.buffer, index)
        back = (self.context - index.long() % type_.ring) % type_.ring
        size = self.config.sliding_window
        out = torch.zeros_like(rows)
        where = ((self.context - back) % size).unsqueeze(-1).expand_as(rows)
        return out.scatter_(1, where, rows)

    def _window_index(self) -> Tensor:
        """What the layer's nodes take; layers share it."""
        nodes = (node for node, _ in self._step.nodes if node.origin.layer == self.number)
        inputs = (name for node in nodes for name in node.inputs)
        return self._tensor(next(name for name in inputs if name.endswith(".window_index")))

    def cache(self, scope: str) -> Tensor:
        """Compressed entries in order, f32 [B, entries, width]."""
        state = self.session.executor.states[f"L{self.number}.attn.{scope}.cache"]
        type_ = cast(CacheType, state.type)
        return type_.layout.gather(state.buffer, self._places())

    def _places(self) -> Tensor:
        """Entry numbers in the pool, i64 [B, entries]."""
        page = PAGE_TOKENS // self.layer.ratio
        entries = torch.arange((self.context + 1) // self.layer.ratio, device=self._table.device)
        return self._table[:, entries // page] * page + entries % page

    def _entries(self) -> Tensor | None:
        if self.layer.kind != "csa":
            return None
        places = self._places()
        numbers = torch.full((int(places.max()) + 1,), -1, device=places.device)
        every = torch.arange(places.shape[1], device=places.device)
        numbers[places.flatten()] = every.repeat(len(places))
        chosen = self._tensor(f"L{self.number}.attn.indexer.selected").long()
        return torch.where(chosen >= 0, numbers[chosen.clamp_min(0)], -1)

    def _experts(self) -> Tensor:
        order, offsets = (self._tensor(f"L{self.number}.ffn.{x}") for x in ("order", "offsets"))
        count = len(offsets) - 1
        sizes = offsets.long().diff()
        owners = torch.arange(count, device=order.device).repeat_interleave(sizes)
        found = torch.empty_like(owners)
        found[order.flatten().long()] = owners
        return found.view(self.sequences, -1)

    def _tensor(self, name: str) -> Tensor:
        value = self._values[name]
        assert isinstance(value, Tensor)
        return value


def torch_layer(plan: PlanLayer, weights: tuple[Weights, list[int]], gather: bool) -> TorchLayer:
    """The layer in torch, bf16, with the plan's caches.

    Args:
        plan: the layer.
        weights: as `torch_weights` returns them.
        gather: how experts are multiplied, see `TorchLayer`.
    """
    dims = _dims(plan)
    entries = plan.context // dims.ratio + 1
    layer = TorchLayer(dims, *weights, plan.sequences, entries, gather)
    layer.window.copy_(plan.window())
    _fill(layer.compressor, plan.cache("compressor"))
    if layer.index is not None:
        # The plan's keys are rotated by a Hadamard matrix, its own inverse.
        _fill(layer.index, hadamard(plan.cache("indexer")))
    return layer


def _fill(part: Compressor, entries: Tensor) -> None:
    part.cache[:, : entries.shape[1]] = entries.to(part.cache.dtype)


def _dims(plan: PlanLayer) -> Dims:
    c, layer = plan.config, plan.layer
    return Dims(
        heads=c.num_attention_heads,
        width=c.head_dim,
        rope=c.qk_rope_head_dim,
        groups=c.o_groups,
        streams=c.hc_mult,
        window=c.sliding_window,
        ratio=layer.ratio,
        index_heads=c.index_n_heads if layer.kind == "csa" else 0,
        index_width=c.index_head_dim,
        index_topk=c.index_topk,
        top_k=c.num_experts_per_tok,
        route_scale=c.routed_scaling_factor,
        limit=c.swiglu_limit,
        eps=c.rms_norm_eps,
        hc_eps=c.hc_eps,
        sinkhorn=c.hc_sinkhorn_iters,
    )


def torch_weights(plan: PlanLayer) -> tuple[Weights, list[int]]:
    """The plan's decoded weights by the names of `TorchLayer`, and the rows joined in `in`."""
    dims = _dims(plan)

    def exact(name: str) -> Tensor:
        return plan.weight(name).dense(torch.float32)

    def bf16(*names: str) -> Tensor:
        return torch.cat([exact(name).bfloat16() for name in names])

    first = ["wq_a", "wkv", "compressor.wkv", "compressor.wgate"]
    second = ["wq_b"]
    if dims.index_heads:
        first += ["indexer.compressor.wkv", "indexer.compressor.wgate", "indexer.weights_proj"]
        second += ["indexer.wq_b"]
    rope = plan.config.rope(plan.layer)
    freqs = rope_frequencies(
        dims.rope,
        rope.theta,
        rope.factor,
        rope.original_max_position,
        rope.beta_fast,
        rope.beta_slow,
    )
    sizes = torch.tensor([dims.streams, dims.streams, dims.streams**2])
    w: Weights = {
        "in": bf16(*(f"attn.{name}" for name in first)),
        "q": bf16(*(f"attn.{name}" for name in second)),
        "q_norm": bf16("attn.q_norm"),
        "kv_norm": bf16("attn.kv_norm"),
        "freqs": freqs.to(plan.after.device),
        "sink": exact("attn.attn_sink"),
        "o_a": bf16("attn.wo_a").unflatten(0, (dims.groups, -1)),
        "o_b": bf16("attn.wo_b"),
        "compressor.ape": exact("attn.compressor.ape"),
        "compressor.norm": bf16("attn.compressor.norm"),
        "gate": exact("ffn.gate"),
        "w13": _stacked(plan, "w1", "w3"),
        "w2": _stacked(plan, "w2"),
        "shared_w13": bf16("ffn.shared_experts.w1", "ffn.shared_experts.w3"),
        "shared_w2": bf16("ffn.shared_experts.w2"),
    }
    if dims.index_heads:
        w["index.ape"] = exact("attn.indexer.compressor.ape")
        w["index.norm"] = bf16("attn.indexer.compressor.norm")
    for site in ("attn", "ffn"):
        w[f"{site}.fn"], w[f"{site}.base"] = exact(f"hc_{site}_fn"), exact(f"hc_{site}_base")
        w[f"{site}.scale"] = exact(f"hc_{site}_scale").repeat_interleave(
            sizes.to(plan.after.device)
        )
        w[f"{site}.norm"] = bf16(f"{site}_norm")
    if plan.layer.hash_routing:
        w["table"] = plan.weight("ffn.gate.tid2eid").components[0]
    else:
        w["bias"] = exact("ffn.gate.bias")
    return w, [plan.weight(f"attn.{name}").type.dims[0] for name in first]


def _stacked(plan: PlanLayer, *names: str) -> Tensor:
    """bf16 [experts, rows of all, columns]."""
    weights = [plan.weight(f"ffn.experts.{name}") for name in names]
    count, rows, columns = weights[0].type.dims
    shape, device = (count, len(names) * rows, columns), plan.after.device
    out = torch.empty(shape, dtype=torch.bfloat16, device=device)
    for i, weight in enumerate(weights):
        for expert in range(count):
            part = out[expert, i * rows : (i + 1) * rows]
            part.copy_(weight.expert(expert, torch.float32))
    return out
