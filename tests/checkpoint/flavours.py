"""The checkpoint flavours that exist, small: one random model in each of their names and formats."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsv4c.checkpoint.quantize import quantize_checkpoint
from dsv4c.checkpoint.reader import Checkpoint
from dsv4c.checkpoint.writer import CheckpointWriter
from dsv4c.ir.weight_codecs import quantize
from dsv4c.models.deepseek_v4.config import parse_config
from dsv4c.models.deepseek_v4.inventory import Header, logical_weights, official_tensors

CONFIG: dict[str, Any] = dict(
    architectures=["DeepseekV4ForCausalLM"],
    model_type="deepseek_v4",
    vocab_size=96,
    hidden_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    head_dim=128,
    qk_rope_head_dim=64,
    q_lora_rank=48,
    o_groups=2,
    o_lora_rank=32,
    compress_ratios=[0, 4, 128],
    sliding_window=128,
    index_n_heads=4,
    index_head_dim=64,
    index_topk=8,
    n_routed_experts=3,
    num_experts_per_tok=2,
    moe_intermediate_size=32,
    routed_scaling_factor=1.5,
    num_hash_layers=1,
    swiglu_limit=10.0,
    hc_mult=4,
    hc_sinkhorn_iters=20,
    hc_eps=1e-6,
    rms_norm_eps=1e-6,
    rope_theta=10000.0,
    compress_rope_theta=160000.0,
    rope_scaling=None,
    max_position_embeddings=4096,
    num_nextn_predict_layers=0,
)
DTYPES = {torch.bfloat16: "BF16", torch.float32: "F32", torch.int64: "I64"}

Tensors = dict[str, tuple[Header, Tensor]]

_HF = {
    "embed": "model.embed_tokens",
    "head": "lm_head",
    "norm": "model.norm",
    "hc_head_fn": "model.hc_head.hc_fn",
    "hc_head_base": "model.hc_head.hc_base",
    "hc_head_scale": "model.hc_head.hc_scale",
}
_HF_PARTS = (
    (".attn.indexer.weights_proj", ".attn.compressor.indexer.scorer.weights_proj"),
    (".attn.indexer.compressor.", ".attn.compressor.indexer."),
    (".attn.indexer.wq_b", ".attn.compressor.indexer.q_b_proj"),
    (".attn.attn_sink", ".attn.sinks"),
    (".attn.wq_a", ".attn.q_a_proj"),
    (".attn.wq_b", ".attn.q_b_proj"),
    (".attn.q_norm", ".attn.q_a_norm"),
    (".attn.wkv", ".attn.kv_proj"),
    (".attn.wo_a", ".attn.o_a_proj"),
    (".attn.wo_b", ".attn.o_b_proj"),
    (".wkv", ".kv_proj"),
    (".wgate", ".gate_proj"),
    (".ape", ".position_bias"),
    ("compressor.norm", "compressor.kv_norm"),
    ("compressor.indexer.norm", "compressor.indexer.kv_norm"),
    (".attn_norm", ".input_layernorm"),
    (".ffn_norm", ".post_attention_layernorm"),
    (".hc_attn_", ".attn_hc."),
    (".hc_ffn_", ".ffn_hc."),
    (".ffn.gate.bias", ".ffn.gate.e_score_correction_bias"),
    (".w1", ".gate_proj"),
    (".w2", ".down_proj"),
    (".w3", ".up_proj"),
    (".ffn.", ".mlp."),
    (".attn.", ".self_attn."),
)


def transformers_name(official: str) -> str:
    """Name of an official tensor in the transformers scheme."""
    stem = official.removesuffix(".weight")
    if stem in _HF:
        return _HF[stem] + official[len(stem) :]
    for old, new in _HF_PARTS:
        official = official.replace(old, new)
    return f"model.{official}"


def random_tensors(seed: int = 0) -> Tensors:
    """The model in BF16 under the official names."""
    generator = torch.Generator().manual_seed(seed)
    tensors: Tensors = {}
    for name, weight in logical_weights(parse_config(CONFIG)).items():
        fmt = weight.formats[0] if weight.role in ("f32", "ids") else "bf16"
        for tensor, header in official_tensors(name, weight, fmt).items():
            if header.dtype == "I64":
                drawn = torch.rand(header.shape[0], CONFIG["n_routed_experts"], generator=generator)
                value = drawn.argsort(1)[:, : header.shape[1]].contiguous()
            else:
                value = torch.randn(header.shape, generator=generator) * 0.05
                value = value.to(torch.bfloat16 if header.dtype == "BF16" else torch.float32)
            tensors[tensor] = header, value
    return tensors


def write(
    folder: Path, tensors: Tensors, shard_bytes: int = 1 << 30, config: object = CONFIG
) -> Path:
    """Write a checkpoint with a tokenizer beside it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text('{"tokenizer": true}')
    writer = CheckpointWriter(folder, {name: h for name, (h, _) in tensors.items()}, shard_bytes)
    for name, (_, tensor) in tensors.items():
        writer.write(name, tensor)
    writer.finish()
    return folder


def load(folder: Path) -> Tensors:
    """Every tensor of a checkpoint."""
    opened = Checkpoint.open(folder)
    return {
        name: (Header(info.dtype, info.shape), opened.read(name))
        for name, info in opened.tensors.items()
    }


def bf16(folder: Path) -> Path:
    """Official names, three shards."""
    return write(folder, random_tensors(), shard_bytes=300_000)


def official(folder: Path) -> Path:
    """FP8 and MXFP4 with an MTP module, three shards."""
    write(folder.with_name("official-source"), random_tensors())
    quantize_checkpoint(folder.with_name("official-source"), folder.with_name("one"), "mxfp4")
    tensors = load(folder.with_name("one"))
    tensors["mtp.0.e_proj.weight"] = Header("F8_E4M3", (64, 64)), torch.ones(64, 64).to(torch.uint8)
    tensors["mtp.0.e_proj.scale"] = Header("F8_E8M0", (1, 1)), torch.ones(1, 1).to(torch.uint8)
    config = json.loads((folder.with_name("one") / "config.json").read_text())
    return write(folder, tensors, shard_bytes=100_000, config=config)


def modelopt(folder: Path) -> Path:
    """NVFP4 experts, FP8 attention, hf_quant_config.json, one file."""
    write(folder.with_name("modelopt-source"), random_tensors())
    quantize_checkpoint(folder.with_name("modelopt-source"), folder)
    return folder


def everywhere(folder: Path) -> Path:
    """NVFP4 under transformers names, o_a_proj in BF16, described by hf_quant_config.json alone."""
    write(folder.with_name("everywhere-source"), random_tensors())
    one = folder.with_name("everywhere-official")
    quantize_checkpoint(folder.with_name("everywhere-source"), one, attention="nvfp4")
    tensors = {transformers_name(name): tensor for name, tensor in load(one).items()}
    write(folder, tensors, shard_bytes=150_000)
    excluded = ["lm_head", "*o_a_proj", "*compressor.kv_proj", "*compressor.gate_proj", "*scorer*"]
    description = {
        "producer": {"name": "modelopt", "version": "0.40.0"},
        "quantization": {"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": excluded},
    }
    (folder / "hf_quant_config.json").write_text(json.dumps(description))
    return folder


def transformers(folder: Path) -> Path:
    """BF16 under transformers names, fused experts, one file."""
    tensors = random_tensors()
    fused: Tensors = {}
    for layer in range(3):
        stem = f"layers.{layer}.ffn.experts"
        stacks = {
            leaf: torch.stack([tensors.pop(f"{stem}.{e}.{leaf}.weight")[1] for e in range(3)])
            for leaf in ("w1", "w2", "w3")
        }
        hf = f"model.layers.{layer}.mlp.experts"
        fused[f"{hf}.gate_up_proj"] = _entry(torch.cat((stacks["w1"], stacks["w3"]), dim=1))
        fused[f"{hf}.down_proj"] = _entry(stacks["w2"])
    named = {transformers_name(name): tensor for name, tensor in tensors.items()}
    return write(folder, named | fused)


def base(folder: Path) -> Path:
    """FP8 with float32 block scales in every linear, experts included; two shards."""
    weights = logical_weights(parse_config(CONFIG))
    linear = [n for n, weight in weights.items() if weight.role in ("linear", "expert")]
    tensors: Tensors = {}
    for name, (header, tensor) in random_tensors().items():
        stem = name.removesuffix(".weight")
        parts = stem.split(".")
        logical = ".".join(part for part in parts[2:] if not part.isdigit())
        if f"{parts[0]}.{parts[1] if len(parts) > 1 else ''}.{logical}" in linear:
            codes, scale = quantize("fp8_128_f32", tensor)
            tensors[name] = Header("F8_E4M3", header.shape), codes
            tensors[f"{stem}.scale"] = Header("F32", tuple(scale.shape)), scale
        else:
            tensors[name] = header, tensor
    return write(folder, tensors, shard_bytes=150_000, config=CONFIG | {"expert_dtype": "fp8"})


def _entry(tensor: Tensor) -> tuple[Header, Tensor]:
    return Header(DTYPES[tensor.dtype], tuple(tensor.shape)), tensor


FLAVOURS: Mapping[str, Callable[[Path], Path]] = {
    "bf16": bf16,
    "official": official,
    "modelopt": modelopt,
    "everywhere": everywhere,
    "transformers": transformers,
    "base": base,
}
# --experts, --attention with which each flavour is copied or converted in the tests of refusals.
TARGETS: Mapping[str, tuple[str, str]] = {
    "bf16": ("nvfp4", "fp8"),
    "official": ("nvfp4", "fp8"),
    "modelopt": ("nvfp4", "fp8"),
    "everywhere": ("nvfp4", "nvfp4"),
    "transformers": ("nvfp4", "fp8"),
    "base": ("fp8", "fp8"),
}
