"""What config.json and hf_quant_config.json say about the formats of a written checkpoint.

The keys are those of DeepSeek's own files and of ModelOpt's NVFP4 export, so that other engines find
what they look for. dsv4c itself reads the format off each tensor.
"""

from __future__ import annotations

import json
from pathlib import Path

from dsv4c.ir.weight_formats import FP8_BLOCK, NVFP4_BLOCK
from dsv4c.models.deepseek_v4.config import ModelConfig

HF_QUANT_CONFIG = "hf_quant_config.json"

Json = dict[str, object]

# ModelOpt's layout is recognised by these names.
_PRODUCER: Json = {"name": "modelopt", "version": "dsv4-nvfp4-experts"}
_IGNORE = ["*.attn.*", "*.ffn.shared_experts.*", "head", "mtp.*"]


def write_configs(
    source: Path, folder: Path, config: ModelConfig, experts: str, linear: str
) -> None:
    """Write config.json, and hf_quant_config.json if the experts are NVFP4.

    Args:
        source: config.json of the checkpoint that was quantised.
        folder: where to write.
        config: its content, validated.
        experts: weight format of the routed experts.
        linear: weight format of the attention and shared-expert linears.
    """
    raw: Json = json.loads(source.read_text(encoding="utf-8"))
    raw.pop("quantization_config", None)
    raw.pop("expert_dtype", None)
    if experts == "mxfp4":
        raw["expert_dtype"] = "fp4"
    quantization = _fp8() if linear == "fp8_128" else {}
    if experts == "nvfp4":
        layers = [f"layers.{number}.ffn.experts" for number in range(config.num_hidden_layers)]
        modelopt = _modelopt(layers)
        quantization = {"quant_method": "modelopt"} | quantization | modelopt
        _dump(folder / HF_QUANT_CONFIG, _hf_quant_config(modelopt))
    if quantization:
        raw["quantization_config"] = quantization
    _dump(folder / "config.json", raw)


def _fp8() -> Json:
    return {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "scale_fmt": "ue8m0",
        "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
        "activation_scheme": "dynamic",
    }


def _modelopt(layers: list[str]) -> Json:
    values: Json = {"dynamic": False, "num_bits": 4, "type": "float", "group_size": NVFP4_BLOCK}
    layer: Json = {"quant_algo": "NVFP4", "group_size": NVFP4_BLOCK}
    return {
        "moe_quant_algo": "NVFP4",
        "quant_algo": "MIXED_PRECISION",
        "kv_cache_quant_algo": None,
        "group_size": NVFP4_BLOCK,
        "producer": _PRODUCER,
        "config_groups": {
            "group_0": {"weights": values, "input_activations": values, "targets": ["Linear"]}
        },
        "quantized_layers": dict.fromkeys(layers, layer),
        "ignore": _IGNORE,
    }


def _hf_quant_config(modelopt: Json) -> Json:
    keys = ("quant_algo", "kv_cache_quant_algo", "group_size", "quantized_layers")
    quantization: Json = {key: modelopt[key] for key in keys}
    return {"producer": _PRODUCER, "quantization": quantization | {"exclude_modules": _IGNORE}}


def _dump(path: Path, content: Json) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
