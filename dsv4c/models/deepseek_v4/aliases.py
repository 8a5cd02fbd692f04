"""Names of checkpoint tensors in every scheme that is in use, translated to logical names.

Three schemes exist: DeepSeek's own, ModelOpt's (the same with NVFP4 expert parts), transformers'.
Files mix them (transformers saves official layer names under a "model." prefix), so each tensor is
translated by itself, with no flag for the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PARTS = {
    "weight": "weight",
    "scale": "scale",
    "weight_scale_inv": "scale",
    "scale_inv": "scale",
    "weight_scale": "scale",
    "weight_scale_2": "scale_2",
    "input_scale": "input_scale",
}

_TOP = {
    "embed_tokens": "embed",
    "lm_head": "head",
    "hc_head.hc_fn": "hc_head_fn",
    "hc_head.hc_base": "hc_head_base",
    "hc_head.hc_scale": "hc_head_scale",
}

_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "attn_hc.fn": "hc_attn_fn",
    "attn_hc.base": "hc_attn_base",
    "attn_hc.scale": "hc_attn_scale",
    "ffn_hc.fn": "hc_ffn_fn",
    "ffn_hc.base": "hc_ffn_base",
    "ffn_hc.scale": "hc_ffn_scale",
    "self_attn.sinks": "attn.attn_sink",
    "self_attn.q_a_proj": "attn.wq_a",
    "self_attn.q_a_norm": "attn.q_norm",
    "self_attn.q_b_proj": "attn.wq_b",
    "self_attn.kv_proj": "attn.wkv",
    "self_attn.kv_norm": "attn.kv_norm",
    # transformers 5.23 saves official names and misnames this one.
    "attn.norm": "attn.kv_norm",
    "self_attn.o_a_proj": "attn.wo_a",
    "self_attn.o_b_proj": "attn.wo_b",
    "self_attn.compressor.kv_proj": "attn.compressor.wkv",
    "self_attn.compressor.gate_proj": "attn.compressor.wgate",
    "self_attn.compressor.position_bias": "attn.compressor.ape",
    "self_attn.compressor.kv_norm": "attn.compressor.norm",
    "self_attn.compressor.indexer.q_b_proj": "attn.indexer.wq_b",
    "self_attn.compressor.indexer.scorer.weights_proj": "attn.indexer.weights_proj",
    "self_attn.compressor.indexer.kv_proj": "attn.indexer.compressor.wkv",
    "self_attn.compressor.indexer.gate_proj": "attn.indexer.compressor.wgate",
    "self_attn.compressor.indexer.position_bias": "attn.indexer.compressor.ape",
    "self_attn.compressor.indexer.kv_norm": "attn.indexer.compressor.norm",
    "mlp.gate": "ffn.gate",
    "mlp.gate.e_score_correction_bias": "ffn.gate.bias",
    "mlp.gate.tid2eid": "ffn.gate.tid2eid",
    "mlp.shared_experts.gate_proj": "ffn.shared_experts.w1",
    "mlp.shared_experts.down_proj": "ffn.shared_experts.w2",
    "mlp.shared_experts.up_proj": "ffn.shared_experts.w3",
}

_EXPERT = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
# Fused tensors of transformers: gate and up rows of all experts in one, down in the other.
FUSED_GATE_UP = "w13"
FUSED_DOWN = "w2"
_FUSED = {"gate_up_proj": FUSED_GATE_UP, "down_proj": FUSED_DOWN}

_NUMBER = r"(0|[1-9]\d*)"
_LAYER_NAME = re.compile(rf"(layers\.{_NUMBER}\.)(.+)")
_EXPERT_NAME = re.compile(rf"(?:ffn|mlp)\.experts\.{_NUMBER}\.(\w+)\.(\w+)")
_FUSED_NAME = re.compile(r"(?:ffn|mlp)\.experts\.(gate_up_proj|down_proj)(?:[._](\w+))?")


@dataclass(frozen=True, slots=True)
class TensorKey:
    """Which part of which weight a tensor is.

    Attributes:
        weight: logical name, or the fused pair ".experts.w13"; what no scheme knows stays as it is.
        expert: number of the expert whose share it is; None if it holds all, or is no expert.
        part: "weight", "scale", "scale_2", "input_scale", or "" for a name without such an ending.
    """

    weight: str
    expert: int | None
    part: str


def parse_name(name: str) -> TensorKey:
    """Translate the name of a checkpoint tensor."""
    name = name.removeprefix("model.")
    match = _LAYER_NAME.fullmatch(name)
    if match is None:
        return _plain("", name, _TOP)
    prefix, _, rest = match.groups()
    fused = _FUSED_NAME.fullmatch(rest)
    if fused and (part := _PARTS.get(fused[2] or "weight")):
        return TensorKey(f"{prefix}ffn.experts.{_FUSED[fused[1]]}", None, part)
    if (expert := _EXPERT_NAME.fullmatch(rest)) and expert[3] in _PARTS:
        leaf = _EXPERT.get(expert[2], expert[2])
        return TensorKey(f"{prefix}ffn.experts.{leaf}", int(expert[1]), _PARTS[expert[3]])
    return _plain(prefix, rest, _LAYER)


def _plain(prefix: str, rest: str, aliases: dict[str, str]) -> TensorKey:
    # Before the ending is cut off: "attn_hc.scale" is a whole name.
    if rest in aliases:
        return TensorKey(prefix + aliases[rest], None, "")
    stem, _, ending = rest.rpartition(".")
    if ending not in _PARTS:
        return TensorKey(prefix + rest, None, "")
    return TensorKey(prefix + aliases.get(stem, stem), None, _PARTS[ending])
