"""Graphs of the bundled size, of Flash and of Pro, without a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from dsv4c.ir.graph import Graph
from dsv4c.models.deepseek_v4.build import BuildOptions, build_graph
from dsv4c.models.deepseek_v4.config import Kind, LayerConfig, ModelConfig, parse_config
from dsv4c.models.deepseek_v4.inventory import logical_weights
from dsv4c.models.deepseek_v4.names import TensorSlice, WeightSource

SHARED: dict[str, Any] = dict(
    architectures=["DeepseekV4ForCausalLM"],
    head_dim=512,
    qk_rope_head_dim=64,
    sliding_window=128,
    index_head_dim=128,
    swiglu_limit=10.0,
    hc_mult=4,
    hc_sinkhorn_iters=20,
    hc_eps=1e-6,
    rms_norm_eps=1e-6,
    rope_theta=10000,
    compress_rope_theta=160000,
    rope_scaling=dict(
        type="yarn", factor=16, original_max_position_embeddings=65536, beta_fast=32, beta_slow=1
    ),
    max_position_embeddings=1048576,
    bos_token_id=0,
    eos_token_id=1,
)
# vocab, d, H, q_lora, groups, o_lora, index heads, top-k, E, k, I, scaling, hash layers, ratios
SIZES: dict[str, tuple[Any, ...]] = {
    "tiny": (2048, 256, 8, 128, 2, 128, 32, 64, 8, 2, 128, 1.5, 1, [128, 4, 128, 4, 0]),
    "flash": (129280, 4096, 64, 1024, 8, 1024, 64, 512, 256, 6, 2048, 1.5, 3, [0, 0, *[4, 128] * 20, 4]),
    "pro": (129280, 7168, 128, 1536, 16, 1024, 64, 1024, 384, 6, 3072, 2.5, 3, [128, 128, *[4, 128] * 29, 4]),
}  # fmt: skip
FIELDS = [
    *("vocab_size", "hidden_size", "num_attention_heads", "q_lora_rank", "o_groups", "o_lora_rank"),
    *("index_n_heads", "index_topk", "n_routed_experts", "num_experts_per_tok"),
    *("moe_intermediate_size", "routed_scaling_factor", "num_hash_layers", "compress_ratios"),
]


@cache
def config_of(name: str) -> ModelConfig:
    fields = dict(zip(FIELDS, SIZES[name], strict=True))
    return parse_config(SHARED | fields | {"num_hidden_layers": len(fields["compress_ratios"])})


def graph_of(config: ModelConfig, options: BuildOptions | None = None) -> Graph:
    sources = {
        name: WeightSource(
            weight.formats[0],
            weight.shape,
            (("weight", (TensorSlice(name if weight.bare else f"{name}.weight"),)),),
        )
        for name, weight in logical_weights(config).items()
    }
    return build_graph(config, sources, options or BuildOptions())


@pytest.fixture(scope="session")
def model_config() -> Callable[[str], ModelConfig]:
    """Configuration `tiny`, `flash` or `pro`."""
    return config_of


@pytest.fixture(scope="session")
def model_graph() -> Callable[..., Graph]:
    """The graph of a configuration, weights in their official formats."""
    return graph_of


@pytest.fixture(scope="session")
def layer_graph() -> Callable[[Kind], Graph]:
    """The tiny model with a single layer, of the given kind of attention."""

    def make(kind: Kind) -> Graph:
        layer = LayerConfig(kind, {"swa": 0, "csa": 4, "hca": 128}[kind], hash_routing=False)
        return graph_of(replace(config_of("tiny"), layers=(layer,), num_hidden_layers=1))

    return make
