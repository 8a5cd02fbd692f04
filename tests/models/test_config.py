"""config.json in both flavours, and everything that can be wrong with one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsv4c.errors import DsvError
from dsv4c.models.deepseek_v4.config import LayerConfig, RopeConfig, load_config, parse_config

Raw = dict[str, Any]
MakeConfig = Callable[..., Raw]


def test_flash(flash: MakeConfig) -> None:
    config = parse_config(flash())
    kinds = [layer.kind for layer in config.layers]
    assert len(kinds) == 43
    assert [kinds.count(kind) for kind in ("swa", "csa", "hca")] == [2, 21, 20]
    assert config.layers[2] == LayerConfig("csa", 4, True)
    assert config.layers[3] == LayerConfig("hca", 128, False)
    assert config.rope(config.layers[0]) == RopeConfig(10_000.0)
    assert config.rope(config.layers[2]) == RopeConfig(160_000.0, 16.0, 65_536, 32.0, 1.0)
    assert (config.group_width, config.hc_rows, config.eos_token_ids) == (4096, 24, (1,))


def test_pro(pro: MakeConfig) -> None:
    config = parse_config(pro())
    kinds = [layer.kind for layer in config.layers]
    assert [kinds.count(kind) for kind in ("swa", "csa", "hca")] == [0, 30, 31]
    assert [layer.hash_routing for layer in config.layers].index(False) == 3
    assert config.num_nextn_predict_layers == 1


def transformers_flavour(**changes: Any) -> Raw:
    """What transformers writes for a small model."""
    transformers = pytest.importorskip("transformers")
    settings: Raw = dict(
        vocab_size=320,
        hidden_size=64,
        moe_intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        head_dim=32,
        qk_rope_head_dim=8,
        q_lora_rank=24,
        o_groups=2,
        o_lora_rank=16,
        num_experts_per_tok=2,
        n_routed_experts=8,
        num_hash_layers=2,
        compress_ratios=[0, 4, 128, 4],
        index_n_heads=32,
        index_head_dim=16,
        index_topk=8,
        architectures=["DeepseekV4ForCausalLM"],
        rope_scaling=dict(
            type="yarn",
            factor=16,
            original_max_position_embeddings=512,
            beta_fast=32,
            beta_slow=1,
        ),
    )
    config = transformers.DeepseekV4Config(**(settings | changes))
    return json.loads(config.to_json_string(use_diff=True))


def test_transformers_flavour_equals_the_official_one() -> None:
    raw = transformers_flavour()
    assert "compress_ratios" not in raw
    assert "rope_scaling" not in raw
    config = parse_config(raw)
    assert [layer.kind for layer in config.layers] == ["swa", "csa", "hca", "csa"]
    assert [layer.hash_routing for layer in config.layers] == [True, True, False, False]
    assert config.qk_rope_head_dim == 8
    official = {key: value for key, value in raw.items() if key not in TRANSFORMERS_ONLY}
    official |= dict(
        compress_ratios=[0, 4, 128, 4, 0],
        num_hash_layers=2,
        qk_rope_head_dim=8,
        rope_theta=10000.0,
        compress_rope_theta=160000.0,
        rope_scaling=raw["rope_parameters"]["compress"],
    )
    assert parse_config(official) == config


TRANSFORMERS_ONLY = (
    "layer_types",
    "mlp_layer_types",
    "compress_rates",
    "rope_parameters",
    "partial_rotary_factor",
)


def test_transformers_compression_rates_are_free() -> None:
    rates = {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8}
    types = ["heavily_compressed_attention", "sliding_attention"] * 2
    raw = transformers_flavour(compress_rates=rates, layer_types=types, compress_ratios=None)
    config = parse_config(raw)
    assert [(layer.kind, layer.ratio) for layer in config.layers] == [("hca", 8), ("swa", 0)] * 2


def test_draft_stages_of_dspark_do_not_matter(flash: MakeConfig) -> None:
    ratios = [*flash()["compress_ratios"], 0, 0]
    raw = flash(compress_ratios=ratios, dspark_block_size=5)
    assert parse_config(raw).layers == parse_config(flash()).layers


def without(name: str) -> Callable[[Raw], Raw]:
    return lambda raw: {key: value for key, value in raw.items() if key != name}


def changed(**changes: Any) -> Callable[[Raw], Raw]:
    return lambda raw: raw | changes


BAD = [
    (without("hidden_size"), "DSV201", "hidden_size is missing"),
    (without("compress_ratios"), "DSV201", "compress_ratios is missing"),
    (without("num_hash_layers"), "DSV201", "num_hash_layers is missing"),
    (changed(hidden_size="4096"), "DSV201", "hidden_size has a wrong value"),
    (changed(hidden_size=True), "DSV201", "found:    True"),
    (changed(head_dim=0), "DSV201", "at least 1"),
    (changed(rms_norm_eps=float("nan")), "DSV201", "a positive number"),
    (changed(eos_token_id=[1, "x"]), "DSV201", "token ids"),
    (changed(compress_ratios=7), "DSV201", "a list"),
    (changed(rope_scaling={"type": "yarn", "factor": 16}), "DSV201", r"rope_scaling\.original"),
    (changed(rope_parameters={"main": {}}), "DSV201", "main and compress"),
    (changed(num_hidden_layers=40), "DSV202", "40 entries, or 41"),
    (changed(layer_types=["sliding_attention"] * 43), "DSV202", "contradicts compress_ratios"),
    (changed(layer_types=["sliding_attention"]), "DSV202", "43 entries"),
    (changed(mlp_layer_types=["moe"] * 43), "DSV202", "contradicts num_hash_layers"),
    (changed(num_hash_layers=44), "DSV202", "at most 43"),
    (changed(compress_rates={"heavily_compressed_attention": 8}), "DSV202", "4 and 128"),
    (changed(o_groups=7), "DSV202", "a divisor of num_attention_heads, 64"),
    (changed(num_experts_per_tok=300), "DSV202", "at most n_routed_experts, 256"),
    (changed(qk_rope_head_dim=63), "DSV202", "an even number"),
    (changed(partial_rotary_factor=0.25), "DSV202", "= 128"),
    (changed(index_head_dim=32), "DSV202", "at least qk_rope_head_dim, 64"),
    (changed(architectures=["DeepseekV3ForCausalLM"]), "DSV203", "DeepseekV3ForCausalLM"),
    (changed(model_type="llama"), "DSV203", "llama"),
    (changed(architectures=None, model_type=None), "DSV203", "None"),
    (changed(scoring_func="softmax"), "DSV301", "sqrtsoftplus"),
    (changed(tie_word_embeddings=True), "DSV301", "tie_word_embeddings"),
    (changed(compress_ratios=[2] * 43), "DSV301", "0, 4, 128"),
    (changed(rope_scaling={"type": "linear"}), "DSV301", "yarn or default"),
]


@pytest.mark.parametrize(("change", "code", "text"), BAD, ids=[text for _, _, text in BAD])
def test_bad_configs(flash: MakeConfig, change: Callable[[Raw], Raw], code: str, text: str) -> None:
    with pytest.raises(DsvError, match=text) as error:
        parse_config(change(flash()), "some/config.json")
    assert error.value.code == code
    assert "some/config.json" in error.value.where


def test_files(tmp_path: Path, flash: MakeConfig) -> None:
    with pytest.raises(DsvError, match=r"DSV201: config\.json is missing"):
        load_config(tmp_path)
    file = tmp_path / "config.json"
    for text, message in (("{", "cannot be read"), ("[1]", "not a JSON object")):
        file.write_text(text)
        with pytest.raises(DsvError, match=message):
            load_config(tmp_path)
    file.write_text(json.dumps(flash()))
    assert load_config(tmp_path) == load_config(str(file)) == parse_config(flash())
