"""The decoder layer of transformers, where it is installed, with a `TorchLayer`'s weights and caches."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from dsv4c.bench.peers.torch_layer import TorchLayer


class TransformersLayer:
    """`DeepseekV4DecoderLayer`, eager.

    Args:
        layer: whose weights it shares and whose caches are copied.
        done: tokens that each sequence holds; whole windows of compressed entries.
    """

    def __init__(self, layer: TorchLayer, done: int) -> None:
        self._layer, self.config = layer, _config(layer)
        self.module = _module(layer, self.config)
        self.cache: Any = import_module("transformers").DynamicCache(config=self.config)
        if done:
            self._fill(done)

    def forward(self, streams: Tensor, pos: Tensor, ids: Tensor) -> Tensor:
        """Streams [B, streams, hidden] after the layer; the caches grow.

        Args:
            streams: before it.
            pos: i64 [B], the same for all.
            ids: i64 [B].
        """
        angles = pos[:, None, None].float() * self._layer.w["freqs"]
        turn = (angles.cos().to(streams.dtype), angles.sin().to(streams.dtype))
        keys = self.cache.layers[0].keys
        seen = 1 if keys is None or not keys.numel() else keys.shape[2] + 1
        out: Tensor = self.module(
            streams[:, None],
            position_embeddings={"main": turn, "compress": turn},
            position_ids=pos[:, None],
            attention_mask=streams.new_zeros(len(streams), 1, 1, seen),
            input_ids=ids[:, None],
            past_key_values=self.cache,
        )
        return out[:, 0]

    @contextmanager
    def choosing(self, entries: Tensor | None, experts: Tensor) -> Generator[None]:
        """Within it the layer takes these entries and experts instead of its own choice."""
        gate, attention = self.module.mlp.gate, self.module.self_attn
        plain = gate.forward

        def routed(x: Tensor, *ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            logits, weights, indices = plain(x, *ids)
            scores = gate.score_fn(logits).gather(1, experts)
            scores = scores / (scores.sum(-1, keepdim=True) + 1e-20)
            del weights, indices
            return logits, scores * gate.routed_scaling_factor, experts

        gate.forward = routed
        indexer = getattr(attention.compressor, "indexer", None)
        if indexer is not None and entries is not None:
            indexer.forward = lambda *_: entries[:, None]
        try:
            yield
        finally:
            del gate.forward
            if indexer is not None and entries is not None:
                del indexer.forward

    def _fill(self, done: int) -> None:
        layer, dims, cache = self._layer, self._layer.dims, self.cache.layers[0]
        assert done % dims.ratio == 0, f"{done} tokens leave a window of {dims.ratio} open"
        last = torch.arange(max(0, done - dims.window + 1), done, device=layer.window.device)
        keys = layer.window[:, last % dims.window][:, None]
        cache.dtype, cache.device, cache.is_initialized = keys.dtype, keys.device, True
        cache.keys = cache.values = keys
        cache.cumulative_length = done
        parts = {"compressor": layer.compressor, "indexer": layer.index}
        for name, part in parts.items():
            if part is None:
                continue
            cache.compressed_kv[name] = part.cache[:, : done // dims.ratio].clone()
            cache.entry_count[name] = done // dims.ratio
            if part.twice == 2:
                # The first series of the last window, with the gates' position bias in.
                rows = torch.arange(done - dims.ratio, done, device=keys.device) % (2 * dims.ratio)
                cache.overlap_kv[name] = part.kv[:, rows, : part.width].clone()
                cache.overlap_gate[name] = part.gate[:, rows, : part.width].clone()


def _config(layer: TorchLayer) -> Any:
    dims, w = layer.dims, layer.w
    kind = "compressed_sparse" if dims.index_heads else "heavily_compressed"
    rates = {"compressed_sparse_attention": dims.ratio, "heavily_compressed_attention": dims.ratio}
    fields: dict[str, Any] = dict(
        vocab_size=len(w["table"]) if "table" in w else 32,
        hidden_size=w["attn.norm"].shape[0],
        moe_intermediate_size=w["w2"].shape[-1],
        num_hidden_layers=1,
        num_attention_heads=dims.heads,
        head_dim=dims.width,
        qk_rope_head_dim=dims.rope,
        q_lora_rank=w["q_norm"].shape[0],
        o_groups=dims.groups,
        o_lora_rank=w["o_a"].shape[1],
        n_routed_experts=len(w["w13"]),
        num_experts_per_tok=dims.top_k,
        num_hash_layers=int("table" in w),
        routed_scaling_factor=dims.route_scale,
        swiglu_limit=dims.limit,
        sliding_window=dims.window,
        hc_mult=dims.streams,
        hc_sinkhorn_iters=dims.sinkhorn,
        layer_types=[f"{kind}_attention"],
        compress_rates=rates,
        attn_implementation="eager",
        experts_implementation="eager",
    )
    if dims.index_heads:
        fields |= dict(
            index_n_heads=dims.index_heads,
            index_head_dim=dims.index_width,
            index_topk=dims.index_topk,
        )
    return import_module("transformers").DeepseekV4Config(**fields)


def _module(layer: TorchLayer, config: Any) -> Any:
    modeling = import_module("transformers.models.deepseek_v4.modeling_deepseek_v4")
    with torch.device("meta"):
        made: Any = modeling.DeepseekV4DecoderLayer(config, 0)
    made.load_state_dict(_named(layer), assign=True)
    for part in made.modules():
        if hasattr(part, "compress_inv_freq"):
            part.compress_inv_freq = layer.w["freqs"]
    return made.requires_grad_(False).eval()


def _named(layer: TorchLayer) -> dict[str, Tensor]:
    """The weights under transformers' names."""
    w, dims = layer.w, layer.dims
    parts = w["in"].split(layer.rows)
    heads = dims.heads * dims.width
    attention = {
        "q_a_proj.weight": parts[0],
        "kv_proj.weight": parts[1],
        "q_a_norm.weight": w["q_norm"],
        "q_b_proj.weight": w["q"][:heads],
        "kv_norm.weight": w["kv_norm"],
        "o_a_proj.weight": w["o_a"].flatten(0, 1),
        "o_b_proj.weight": w["o_b"],
        "sinks": w["sink"],
        "compressor.kv_proj.weight": parts[2],
        "compressor.gate_proj.weight": parts[3],
        "compressor.position_bias": w["compressor.ape"],
        "compressor.kv_norm.weight": w["compressor.norm"],
    }
    if dims.index_heads:
        attention |= {
            "compressor.indexer.kv_proj.weight": parts[4],
            "compressor.indexer.gate_proj.weight": parts[5],
            "compressor.indexer.scorer.weights_proj.weight": parts[6],
            "compressor.indexer.q_b_proj.weight": w["q"][heads:],
            "compressor.indexer.position_bias": w["index.ape"],
            "compressor.indexer.kv_norm.weight": w["index.norm"],
        }
    gate, up = w["shared_w13"].chunk(2)
    choice = {"tid2eid": w["table"]} if "table" in w else {"e_score_correction_bias": w["bias"]}
    found = {f"self_attn.{name}": tensor for name, tensor in attention.items()}
    found |= {f"mlp.gate.{name}": tensor for name, tensor in choice.items()}
    found |= {
        "mlp.gate.weight": w["gate"].to(w["in"].dtype),
        "mlp.experts.gate_up_proj": w["w13"],
        "mlp.experts.down_proj": w["w2"],
        "mlp.shared_experts.gate_proj.weight": gate,
        "mlp.shared_experts.up_proj.weight": up,
        "mlp.shared_experts.down_proj.weight": w["shared_w2"],
        "input_layernorm.weight": w["attn.norm"],
        "post_attention_layernorm.weight": w["ffn.norm"],
    }
    for site in ("attn", "ffn"):
        scale = w[f"{site}.scale"][[0, dims.streams, -1]]
        found |= {f"{site}_hc.fn": w[f"{site}.fn"], f"{site}_hc.base": w[f"{site}.base"]}
        found[f"{site}_hc.scale"] = scale
    return found
