"""What config.json says about a DeepSeek-V4 model, in the official and the transformers flavour.

The official flavour gives `compress_ratios`, `num_hash_layers` and `rope_scaling`; transformers
writes `layer_types`, `compress_rates`, `mlp_layer_types` and nested `rope_parameters` instead. Both
become one `ModelConfig`, whose fields carry the official names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from dsv4c.errors import DsvError
from dsv4c.models.deepseek_v4.fields import Fields
from dsv4c.untrusted import Unreadable, read_json

ARCHITECTURE = "DeepseekV4ForCausalLM"
MODEL_TYPE = "deepseek_v4"

Kind = Literal["swa", "csa", "hca"]
_RATIO_KINDS: dict[int, Kind] = {0: "swa", 4: "csa", 128: "hca"}
_TYPE_KINDS: dict[str, Kind] = {
    "sliding_attention": "swa",
    "compressed_sparse_attention": "csa",
    "heavily_compressed_attention": "hca",
}
_DEFAULT_RATIOS: dict[Kind, int] = {kind: ratio for ratio, kind in _RATIO_KINDS.items()}
_HASH_TYPES = {"hash_moe": True, "moe": False}

# Switches that the architecture has one setting for, which also holds where the field is absent.
_FIXED: dict[str, object] = {
    "num_key_value_heads": 1,
    "n_shared_experts": 1,
    "scoring_func": "sqrtsoftplus",
    "norm_topk_prob": True,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
}


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """One set of RoPE frequencies.

    Attributes:
        theta: base.
        factor: YaRN scaling factor; 1 means plain RoPE, and the other fields do not matter.
        original_max_position: context that YaRN extends.
        beta_fast: rotations above which a pair is not scaled.
        beta_slow: rotations below which a pair is fully scaled.
    """

    theta: float
    factor: float = 1.0
    original_max_position: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """One decoder layer.

    Attributes:
        kind: "swa" (window only), "csa" (overlapping compression, indexer) or "hca" (compression).
        ratio: tokens per compressed entry, 0 for swa.
        hash_routing: experts come from the token-id table instead of the learned router.
    """

    kind: Kind
    ratio: int
    hash_routing: bool

    @property
    def overlap(self) -> int:
        """Windows that a token contributes to: 2 in csa, 1 in hca."""
        return 2 if self.kind == "csa" else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A validated DeepSeek-V4 configuration; see `load_config`."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    head_dim: int
    qk_rope_head_dim: int
    q_lora_rank: int
    o_groups: int
    o_lora_rank: int
    sliding_window: int
    index_n_heads: int
    index_head_dim: int
    index_topk: int
    n_routed_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    routed_scaling_factor: float
    swiglu_limit: float
    hc_mult: int
    hc_sinkhorn_iters: int
    hc_eps: float
    rms_norm_eps: float
    max_position_embeddings: int
    num_nextn_predict_layers: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    layers: tuple[LayerConfig, ...]
    main_rope: RopeConfig
    compress_rope: RopeConfig

    @property
    def group_width(self) -> int:
        """Inputs of one group of the output projection: heads per group times head_dim."""
        return self.num_attention_heads // self.o_groups * self.head_dim

    @property
    def hc_rows(self) -> int:
        """Rows of a layer's mHC projection: pre, post, and the mixing matrix."""
        return self.hc_mult * (2 + self.hc_mult)

    def rope(self, layer: LayerConfig) -> RopeConfig:
        """The frequencies of everything in this layer: queries, window, compressed, index."""
        return self.main_rope if layer.kind == "swa" else self.compress_rope


def load_config(path: str | Path) -> ModelConfig:
    """Read config.json.

    Args:
        path: the file, or the checkpoint folder that holds it.

    Raises:
        DsvError: DSV201 (missing, unreadable, lacks a field or has one of a wrong type), DSV202
            (contradicts itself), DSV203 (another architecture), DSV301 (a setting that no released
            DeepSeek-V4 has).
    """
    file = Path(path)
    if file.is_dir():
        file = file / "config.json"
    if not os.path.lexists(file):
        hint = "give the checkpoint folder, the one that holds config.json"
        raise DsvError("DSV201", "config.json is missing", where=str(file), hint=hint)
    try:
        raw = read_json(file)
    except Unreadable as error:
        message = "config.json cannot be read"
        raise DsvError("DSV201", message, where=str(file), found=str(error)) from None
    if not isinstance(raw, dict):
        message = "config.json is not a JSON object"
        raise DsvError("DSV201", message, where=str(file), found=type(raw).__name__)
    return parse_config(cast(dict[str, object], raw), str(file))


def parse_config(raw: Mapping[str, object], where: str = "config.json") -> ModelConfig:
    """Validate the content of a config.json; errors as `load_config`."""
    fields = Fields(raw, where)
    _require_architecture(fields)
    for name, value in _FIXED.items():
        if raw.get(name, value) != value:
            raise fields.error("DSV301", name, "has a value that is not supported", value)
    layers = _layers(fields)
    main, compress = _ropes(fields)
    config = ModelConfig(
        vocab_size=fields.integer("vocab_size"),
        hidden_size=fields.integer("hidden_size"),
        num_hidden_layers=len(layers),
        num_attention_heads=fields.integer("num_attention_heads"),
        head_dim=fields.integer("head_dim"),
        qk_rope_head_dim=_rope_head_dim(fields),
        q_lora_rank=fields.integer("q_lora_rank"),
        o_groups=fields.integer("o_groups"),
        o_lora_rank=fields.integer("o_lora_rank"),
        sliding_window=fields.integer("sliding_window"),
        index_n_heads=fields.integer("index_n_heads"),
        index_head_dim=fields.integer("index_head_dim"),
        index_topk=fields.integer("index_topk"),
        n_routed_experts=fields.integer("n_routed_experts"),
        num_experts_per_tok=fields.integer("num_experts_per_tok"),
        moe_intermediate_size=fields.integer("moe_intermediate_size"),
        routed_scaling_factor=fields.number("routed_scaling_factor"),
        swiglu_limit=fields.number("swiglu_limit"),
        hc_mult=fields.integer("hc_mult"),
        hc_sinkhorn_iters=fields.integer("hc_sinkhorn_iters"),
        hc_eps=fields.number("hc_eps"),
        rms_norm_eps=fields.number("rms_norm_eps"),
        max_position_embeddings=fields.integer("max_position_embeddings"),
        num_nextn_predict_layers=fields.integer("num_nextn_predict_layers", 0, least=0),
        bos_token_id=fields.token("bos_token_id"),
        eos_token_ids=fields.tokens("eos_token_id"),
        layers=layers,
        main_rope=main,
        compress_rope=compress,
    )
    _require_consistent(config, fields)
    return config


def _require_architecture(fields: Fields) -> None:
    architectures = fields.raw.get("architectures")
    model_type = fields.raw.get("model_type")
    named = architectures if isinstance(architectures, list) else []
    if named in ([], [ARCHITECTURE]) and model_type in (None, MODEL_TYPE) and (named or model_type):
        return
    raise DsvError(
        "DSV203",
        "the checkpoint is not a DeepSeek-V4",
        where=f"{fields.where}, fields architectures and model_type",
        expected=f"{ARCHITECTURE}, {MODEL_TYPE}",
        found=f"{architectures}, {model_type}",
        hint="DeepSeek-V4-Flash and -Pro and models of their architecture are supported",
    )


def _layers(fields: Fields) -> tuple[LayerConfig, ...]:
    count = fields.integer("num_hidden_layers")
    rates = _compress_rates(fields)
    kinds = _kinds(fields, count)
    hashed = _hash_layers(fields, count)
    pairs = zip(kinds, hashed, strict=True)
    return tuple(LayerConfig(kind, rates[kind], is_hash) for kind, is_hash in pairs)


def _kinds(fields: Fields, count: int) -> list[Kind]:
    """Attention kind of each layer, from whichever schedule is there; both must agree."""
    found: list[list[Kind]] = []
    if (ratios := fields.items("compress_ratios")) is not None:
        mtp = fields.integer("num_nextn_predict_layers", 0, least=0)
        extra = len(ratios) - count
        # The DSpark variants append one entry for each of their draft stages.
        drafts = extra > 0 and "dspark_block_size" in fields.raw
        if extra not in (0, mtp) and not drafts:
            text = f"{count} entries, or {count + mtp} with those of the MTP layers"
            raise fields.error("DSV202", "compress_ratios", "has a wrong length", text, len(ratios))
        found.append([fields.choice("compress_ratios", r, _RATIO_KINDS) for r in ratios[:count]])
    if (types := fields.items("layer_types", count)) is not None:
        found.append([fields.choice("layer_types", t, _TYPE_KINDS) for t in types])
    if not found:
        hint = "the order of the attention layers has no safe default: take it from the publisher"
        raise fields.error("DSV201", "compress_ratios", "is missing", f"{count} entries", hint=hint)
    if found[0] != found[-1]:
        raise fields.error("DSV202", "layer_types", "contradicts compress_ratios", found[0])
    return found[0]


def _compress_rates(fields: Fields) -> dict[Kind, int]:
    rates = dict(_DEFAULT_RATIOS)
    given = fields.section("compress_rates")
    if given is None:
        return rates
    for name, kind in _TYPE_KINDS.items():
        if name in given.raw and kind != "swa":
            rates[kind] = given.integer(name)
    if "compress_ratios" in fields.raw and rates != _DEFAULT_RATIOS:
        raise fields.error("DSV202", "compress_rates", "contradicts compress_ratios", "4 and 128")
    return rates


def _hash_layers(fields: Fields, count: int) -> list[bool]:
    """Which layers route by token id; official: the first num_hash_layers."""
    found: list[list[bool]] = []
    if "num_hash_layers" in fields.raw:
        first = fields.integer("num_hash_layers", least=0)
        if first > count:
            raise fields.error("DSV202", "num_hash_layers", "is too large", f"at most {count}")
        found.append([layer < first for layer in range(count)])
    if (types := fields.items("mlp_layer_types", count)) is not None:
        found.append([fields.choice("mlp_layer_types", t, _HASH_TYPES) for t in types])
    if not found:
        raise fields.error("DSV201", "num_hash_layers", "is missing", "an integer")
    if found[0] != found[-1]:
        raise fields.error("DSV202", "mlp_layer_types", "contradicts num_hash_layers")
    return found[0]


def _ropes(fields: Fields) -> tuple[RopeConfig, RopeConfig]:
    """Frequencies of window-only layers, and of layers with compression."""
    nested = fields.section("rope_parameters")
    if nested is not None:
        main, compress = nested.section("main"), nested.section("compress")
        if main is None or compress is None:
            text = "objects main and compress"
            raise fields.error("DSV201", "rope_parameters", "is incomplete", text)
        theta = compress.number("rope_theta")
        return _rope(main, main.number("rope_theta")), _rope(compress, theta)
    plain = RopeConfig(fields.number("rope_theta"))
    scaling = fields.section("rope_scaling")
    theta = fields.number("compress_rope_theta")
    return plain, _rope(scaling, theta) if scaling is not None else RopeConfig(theta)


def _rope(fields: Fields, theta: float) -> RopeConfig:
    kind = fields.raw.get("rope_type", fields.raw.get("type", "default"))
    if kind == "default":
        return RopeConfig(theta)
    if kind != "yarn":
        raise fields.error("DSV301", "type", "is not supported", "yarn or default", kind)
    for name, neutral in (("attention_factor", 1.0), ("truncate", True)):
        if fields.raw.get(name) not in (None, neutral):
            raise fields.error("DSV301", name, "has a value that is not supported", neutral)
    return RopeConfig(
        theta,
        fields.number("factor"),
        fields.integer("original_max_position_embeddings"),
        fields.number("beta_fast"),
        fields.number("beta_slow"),
    )


def _rope_head_dim(fields: Fields) -> int:
    if fields.raw.get("partial_rotary_factor") is None:
        return fields.integer("qk_rope_head_dim")
    derived = round(fields.integer("head_dim") * fields.number("partial_rotary_factor"))
    if fields.integer("qk_rope_head_dim", derived) != derived:
        text = f"head_dim * partial_rotary_factor = {derived}"
        raise fields.error("DSV202", "qk_rope_head_dim", "contradicts another field", text)
    return derived


def _require_consistent(config: ModelConfig, fields: Fields) -> None:
    rope, heads = config.qk_rope_head_dim, config.num_attention_heads
    chosen, experts = config.num_experts_per_tok, config.n_routed_experts
    rules = (
        ("qk_rope_head_dim", rope % 2 == 0, "an even number"),
        ("qk_rope_head_dim", rope <= config.head_dim, f"at most head_dim, {config.head_dim}"),
        (
            "index_head_dim",
            config.index_head_dim >= rope,
            f"at least qk_rope_head_dim, {rope}",
        ),
        ("o_groups", heads % config.o_groups == 0, f"a divisor of num_attention_heads, {heads}"),
        ("num_experts_per_tok", chosen <= experts, f"at most n_routed_experts, {experts}"),
        (
            "compress_rope_theta",
            min(config.main_rope.theta, config.compress_rope.theta) > 1,
            "RoPE bases above 1",
        ),
    )
    for name, holds, expected in rules:
        if not holds:
            raise fields.error("DSV202", name, "contradicts another field", expected)
