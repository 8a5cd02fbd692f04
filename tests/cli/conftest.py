"""A random checkpoint of three small layers with a byte tokenizer, and the plan made of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

import dsv4c
from dsv4c.checkpoint.writer import CheckpointWriter
from dsv4c.models.deepseek_v4.config import parse_config
from dsv4c.models.deepseek_v4.inventory import logical_weights, official_tensors

EXPERTS = 4
CONFIG: dict[str, object] = {
    "architectures": ["DeepseekV4ForCausalLM"],
    "model_type": "deepseek_v4",
    "vocab_size": 260,
    "hidden_size": 128,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 128,
    "qk_rope_head_dim": 64,
    "q_lora_rank": 64,
    "o_groups": 2,
    "o_lora_rank": 64,
    "num_experts_per_tok": 2,
    "n_routed_experts": EXPERTS,
    "n_shared_experts": 1,
    "routed_scaling_factor": 1.5,
    "scoring_func": "sqrtsoftplus",
    "norm_topk_prob": True,
    "topk_method": "noaux_tc",
    "sliding_window": 128,
    "index_n_heads": 2,
    "index_head_dim": 128,
    "index_topk": 16,
    "hc_mult": 4,
    "hc_sinkhorn_iters": 20,
    "hc_eps": 1e-6,
    "rms_norm_eps": 1e-6,
    "swiglu_limit": 10.0,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
    "compress_rope_theta": 160000.0,
    "compress_ratios": [128, 4, 0],
    "num_hash_layers": 1,
    "num_nextn_predict_layers": 0,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "random-dsv4"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    _write_weights(folder)
    _write_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def plan(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plans") / "random"
    dsv4c.compile(checkpoint, out)
    return out


def _write_weights(folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    formats = {"f32": "f32", "ids": "i64"}
    headers = {
        name: header
        for logical, weight in logical_weights(parse_config(CONFIG)).items()
        for name, header in official_tensors(
            logical, weight, formats.get(weight.role, "bf16")
        ).items()
    }
    writer = CheckpointWriter(folder, headers)
    for name, header in headers.items():
        if header.dtype == "I64":
            drawn = torch.rand(header.shape[0], EXPERTS, generator=generator)
            writer.write(name, drawn.argsort(1)[:, : header.shape[1]].contiguous())
            continue
        values = 0.05 * torch.randn(header.shape, generator=generator)
        dtype = torch.float32 if header.dtype == "F32" else torch.bfloat16
        writer.write(name, (values + name.endswith("norm.weight")).to(dtype))
    writer.finish()


def _write_tokenizer(folder: Path) -> None:
    tokens = ["<|begin|>", "<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    library = tokenizers.Tokenizer(
        models.BPE({token: index for index, token in enumerate(tokens)}, [])
    )
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(tokens[:2])
    library.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
