"""A random DeepSeek-V4 checkpoint of 1 MB with every layer type, in the official flavour."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from dsv4c.models.deepseek_v4.config import parse_config
from dsv4c.models.deepseek_v4.inventory import LogicalWeight, logical_weights, official_name

VOCAB = 96
EOS = 1


def small_config(**changes: Any) -> dict[str, Any]:
    """config.json: dims that every cache format takes; window 128, top-k below 128 tokens' entries."""
    raw: dict[str, Any] = dict(
        architectures=["DeepseekV4ForCausalLM"],
        model_type="deepseek_v4",
        vocab_size=VOCAB,
        hidden_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        head_dim=80,
        qk_rope_head_dim=16,
        q_lora_rank=32,
        o_groups=2,
        o_lora_rank=24,
        compress_ratios=[4, 128, 0, 4],
        sliding_window=128,
        index_n_heads=32,
        index_head_dim=32,
        index_topk=16,
        n_routed_experts=6,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        routed_scaling_factor=1.5,
        num_hash_layers=1,
        swiglu_limit=10.0,
        hc_mult=4,
        hc_sinkhorn_iters=20,
        hc_eps=1e-6,
        rms_norm_eps=1e-6,
        rope_theta=10000,
        compress_rope_theta=160000,
        rope_scaling=dict(
            type="yarn", factor=16, original_max_position_embeddings=256, beta_fast=32, beta_slow=1
        ),
        max_position_embeddings=4096,
        num_nextn_predict_layers=0,
        bos_token_id=0,
        eos_token_id=EOS,
    )
    return raw | changes


def write_small(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Write config.json and model.safetensors; linear weights are BF16."""
    raw = small_config(**changes)
    config = parse_config(raw)
    draw = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, weight in logical_weights(config).items():
        fmt = "bf16" if "bf16" in weight.formats else weight.formats[0]
        value = _random(name, weight, raw["n_routed_experts"], draw)
        if weight.role != "expert":
            tensors[official_name(name, weight, fmt, "weight")] = value
        else:
            for number, share in enumerate(value):
                tensors[official_name(name, weight, fmt, "weight", number)] = share.clone()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(raw, indent=1), encoding="utf-8")
    return folder


def _random(name: str, weight: LogicalWeight, experts: int, draw: torch.Generator) -> torch.Tensor:
    if weight.role == "ids":
        rows, chosen = weight.shape
        ranked = torch.rand(rows, experts, generator=draw).argsort(dim=1)
        return ranked[:, :chosen].contiguous()
    value = torch.randn(weight.shape, generator=draw)
    if weight.role == "norm":
        return (1 + 0.2 * value).bfloat16()
    if weight.role == "f32":
        scale = 0.3 if value.dim() == 1 else value.shape[-1] ** -0.5
        return value * scale + (1.0 if name.endswith("scale") else 0.0)
    return (value * value.shape[-1] ** -0.5).bfloat16()
