"""config.json of the two released sizes as fixtures; each makes a fresh dict, with changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

MakeConfig = Callable[..., dict[str, Any]]


def _flash(**changes: Any) -> dict[str, Any]:
    raw: dict[str, Any] = dict(
        architectures=["DeepseekV4ForCausalLM"],
        model_type="deepseek_v4",
        vocab_size=129280,
        hidden_size=4096,
        num_hidden_layers=43,
        num_attention_heads=64,
        num_key_value_heads=1,
        head_dim=512,
        qk_rope_head_dim=64,
        q_lora_rank=1024,
        o_groups=8,
        o_lora_rank=1024,
        compress_ratios=[0, 0] + [4, 128] * 20 + [4, 0],
        sliding_window=128,
        index_n_heads=64,
        index_head_dim=128,
        index_topk=512,
        n_routed_experts=256,
        n_shared_experts=1,
        num_experts_per_tok=6,
        moe_intermediate_size=2048,
        scoring_func="sqrtsoftplus",
        topk_method="noaux_tc",
        norm_topk_prob=True,
        routed_scaling_factor=1.5,
        num_hash_layers=3,
        swiglu_limit=10.0,
        hidden_act="silu",
        hc_mult=4,
        hc_sinkhorn_iters=20,
        hc_eps=1e-6,
        rms_norm_eps=1e-6,
        rope_theta=10000,
        compress_rope_theta=160000,
        rope_scaling=dict(
            type="yarn",
            factor=16,
            original_max_position_embeddings=65536,
            beta_fast=32,
            beta_slow=1,
        ),
        max_position_embeddings=1048576,
        num_nextn_predict_layers=1,
        tie_word_embeddings=False,
        attention_bias=False,
        bos_token_id=0,
        eos_token_id=1,
    )
    return raw | changes


def _pro(**changes: Any) -> dict[str, Any]:
    raw = _flash(
        hidden_size=7168,
        num_hidden_layers=61,
        num_attention_heads=128,
        q_lora_rank=1536,
        o_groups=16,
        compress_ratios=[128, 128] + [4, 128] * 29 + [4, 0],
        index_topk=1024,
        n_routed_experts=384,
        moe_intermediate_size=3072,
        routed_scaling_factor=2.5,
    )
    return raw | changes


@pytest.fixture
def flash() -> MakeConfig:
    """DeepSeek-V4-Flash."""
    return _flash


@pytest.fixture
def pro() -> MakeConfig:
    """DeepSeek-V4-Pro."""
    return _pro
