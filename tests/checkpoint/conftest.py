"""A small BF16 checkpoint with random weights, in official names."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from dsv4c.checkpoint.writer import CheckpointWriter
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
    o_lora_rank=24,
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
_BF16 = ("linear", "expert", "projection", "router", "table", "norm")


def random_tensors(headers: Mapping[str, Header]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    for name, header in headers.items():
        if header.dtype == "I64":
            tensors[name] = torch.randint(0, 3, header.shape, generator=generator)
        else:
            dtype = torch.bfloat16 if header.dtype == "BF16" else torch.float32
            tensors[name] = torch.randn(header.shape, generator=generator).to(dtype)
    return tensors


@pytest.fixture
def headers() -> dict[str, Header]:
    """Tensors of the checkpoint."""
    out: dict[str, Header] = {}
    for name, weight in logical_weights(parse_config(CONFIG)).items():
        fmt = "bf16" if weight.role in _BF16 else weight.formats[0]
        out |= official_tensors(name, weight, fmt)
    return out


@pytest.fixture
def write_checkpoint() -> Callable[..., None]:
    """Write tensors, with CONFIG and a side file, in shards of at least `shard_bytes`."""

    def write(
        folder: Path, tensors: Mapping[str, torch.Tensor], shard_bytes: int = 1 << 30
    ) -> None:
        dtypes = {torch.bfloat16: "BF16", torch.float32: "F32", torch.int64: "I64"}
        headers = {n: Header(dtypes[t.dtype], tuple(t.shape)) for n, t in tensors.items()}
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(CONFIG))
        (folder / "tokenizer.json").write_text("{}")
        writer = CheckpointWriter(folder, headers, shard_bytes)
        for name, tensor in tensors.items():
            writer.write(name, tensor)
        writer.finish()

    return write


@pytest.fixture
def checkpoint(
    tmp_path: Path, headers: dict[str, Header], write_checkpoint: Callable[..., None]
) -> Path:
    """The checkpoint folder, three shards."""
    folder = tmp_path / "model"
    write_checkpoint(folder, random_tensors(headers), shard_bytes=280_000)
    return folder
