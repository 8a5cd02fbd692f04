"""What config.json and hf_quant_config.json say about the formats of a written checkpoint.

The keys are those of DeepSeek's own files and of ModelOpt's NVFP4 export, so that other engines find
what they look for. dsv4c itself reads the format off each tensor.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from dsv4c.ir.weight_formats import FP8_BLOCK, NVFP4_BLOCK

HF_QUANT_CONFIG = "hf_quant_config.json"

Json = dict[str, object]

# ModelOpt's layout is recognised by these names.
_PRODUCER: Json = {"name": "modelopt", "version": "dsv4-nvfp4-experts"}
_IGNORE = ["*.attn.*", "*.ffn.shared_experts.*", "head", "mtp.*"]
_IGNORE_EVERYWHERE = ["*.attn.wo_a", "*.compressor.*", "*.indexer.weights_proj", "head", "mtp.*"]
_EXPERT_DTYPES = {"mxfp4": "fp4", "fp8_128": "fp8", "fp8_128_f32": "fp8"}
_FP8 = ("fp8_128", "fp8_128_f32")


def write_configs(source: Path, folder: Path, formats: Mapping[str, str]) -> None:
    """Write config.json, and hf_quant_config.json if weights are NVFP4.

    Args:
        source: config.json of the checkpoint that was quantised.
        folder: where to write.
        formats: format of each logical weight.
    """
    raw: Json = json.loads(source.read_text(encoding="utf-8"))
    raw.pop("quantization_config", None)
    raw.pop("expert_dtype", None)
    experts = {fmt for name, fmt in formats.items() if ".ffn.experts." in name}
    if len(experts) == 1 and (dtype := _EXPERT_DTYPES.get(min(experts))):
        raw["expert_dtype"] = dtype
    fp8 = {fmt for fmt in formats.values() if fmt in _FP8}
    quantization = _fp8("fp8_128" in fp8) if fp8 else {}
    if modelopt := _modelopt({name for name, fmt in formats.items() if fmt == "nvfp4"}):
        quantization = {"quant_method": "modelopt"} | quantization | modelopt
        _dump(folder / HF_QUANT_CONFIG, _hf_quant_config(modelopt))
    if quantization:
        raw["quantization_config"] = quantization
    _dump(folder / "config.json", raw)


def _fp8(powers_of_two: bool) -> Json:
    return {
        "quant_method": "fp8",
        "fmt": "e4m3",
        **({"scale_fmt": "ue8m0"} if powers_of_two else {}),
        "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
        "activation_scheme": "dynamic",
    }


def _modelopt(nvfp4: Collection[str]) -> Json:
    """ModelOpt's section for these NVFP4 weights; without any, nothing."""
    if not nvfp4:
        return {}
    values: Json = {"dynamic": False, "num_bits": 4, "type": "float", "group_size": NVFP4_BLOCK}
    layer: Json = {"quant_algo": "NVFP4", "group_size": NVFP4_BLOCK}
    linears = [name for name in nvfp4 if ".ffn.experts." not in name]
    experts = [name.rpartition(".")[0] for name in nvfp4 if ".ffn.experts." in name]
    modules = sorted({*linears, *experts}, key=_by_layer)
    return {
        **({"moe_quant_algo": "NVFP4"} if experts else {}),
        "quant_algo": "MIXED_PRECISION",
        "kv_cache_quant_algo": None,
        "group_size": NVFP4_BLOCK,
        "producer": _PRODUCER,
        "config_groups": {
            "group_0": {"weights": values, "input_activations": values, "targets": ["Linear"]}
        },
        "quantized_layers": dict.fromkeys(modules, layer),
        "ignore": _IGNORE_EVERYWHERE if linears else _IGNORE,
    }


def _by_layer(module: str) -> tuple[int, str]:
    return int(module.split(".")[1]), module


def _hf_quant_config(modelopt: Json) -> Json:
    keys = ("quant_algo", "kv_cache_quant_algo", "group_size", "quantized_layers")
    quantization: Json = {key: modelopt[key] for key in keys}
    quantization["exclude_modules"] = modelopt["ignore"]
    return {"producer": _PRODUCER, "quantization": quantization}


def _dump(path: Path, content: Json) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
