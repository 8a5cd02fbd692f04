"""The weights of a DeepSeek-V4, derived from its configuration alone.

Logical names are the official checkpoint's names without ".weight", with the experts of a layer
stacked. The official inventory adds how DeepSeek stores them: names, dtypes, shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from dsv4c.ir.weight_formats import Shape, weight_format
from dsv4c.models.deepseek_v4.config import LayerConfig, ModelConfig

Role = Literal["linear", "projection", "expert", "router", "table", "norm", "f32", "ids"]

_FLOATS = ("bf16", "f32")
_ANY_LINEAR = ("fp8_128", "fp8_128_f32", "mxfp4", "nvfp4", *_FLOATS)
# Formats that each role may have; the first is the official one.
ROLE_FORMATS: Mapping[Role, tuple[str, ...]] = MappingProxyType(
    {
        "linear": _ANY_LINEAR,
        "projection": ("bf16", "f32", "fp8_128", "fp8_128_f32", "mxfp4", "nvfp4"),
        "expert": ("mxfp4", "nvfp4", "fp8_128", "fp8_128_f32", *_FLOATS),
        "router": _FLOATS,
        "table": _FLOATS,
        "norm": _FLOATS,
        "f32": ("f32",),
        "ids": ("i64",),
    }
)

# safetensors dtypes that each component of a format may have; the first is the official one.
STORED_DTYPES: Mapping[str, tuple[tuple[str, ...], ...]] = MappingProxyType(
    {
        "f32": (("F32",),),
        "bf16": (("BF16",),),
        "i64": (("I64",),),
        "fp8_128": (("F8_E4M3",), ("F8_E8M0",)),
        "fp8_128_f32": (("F8_E4M3",), ("F32",)),
        "mxfp4": (("I8", "U8"), ("F8_E8M0",)),
        "nvfp4": (("U8", "I8"), ("F8_E4M3",), ("F32",)),
    }
)

# Part of a name -> class; the first that occurs decides.
_CLASSES: Mapping[str, str] = MappingProxyType(
    {
        "shared_experts": "shared experts",
        "experts": "routed experts",
        "ffn": "router",
        "indexer": "indexer",
        "compressor": "compressor",
        "attn": "attention",
    }
)


@dataclass(frozen=True, slots=True)
class LogicalWeight:
    """A weight as the graph sees it.

    Attributes:
        shape: [out, in], [n], or [experts, out, in].
        role: "linear" (official checkpoints: FP8), "projection" (a linear that they keep in BF16),
            "expert" (stacked, 4-bit), "router", "table", "norm", "f32" (always float32) or "ids".
    """

    shape: Shape
    role: Role

    @property
    def formats(self) -> tuple[str, ...]:
        """Weight formats it may have."""
        return ROLE_FORMATS[self.role]

    @property
    def bare(self) -> bool:
        """Whether its tensor is named without ".weight"."""
        return self.role in ("f32", "ids")


@dataclass(frozen=True, slots=True)
class Header:
    """What a checkpoint says about a tensor: safetensors dtype, shape, and the file's name."""

    dtype: str
    shape: Shape
    file: str = ""


def logical_weights(config: ModelConfig) -> dict[str, LogicalWeight]:
    """Every weight of the model without MTP, in the order of the data flow."""
    weights = {"embed": LogicalWeight((config.vocab_size, config.hidden_size), "table")}
    for number, layer in enumerate(config.layers):
        weights |= _block(config, f"layers.{number}.", layer)
    weights |= _head_collapse(config, "")
    weights["norm"] = LogicalWeight((config.hidden_size,), "norm")
    weights["head"] = LogicalWeight((config.vocab_size, config.hidden_size), "projection")
    return weights


def weight_class(name: str, role: Role) -> str:
    """What part of the model a weight belongs to, for people."""
    if role == "norm":
        return "norms"
    if name in ("embed", "head"):
        return "embedding and head"
    parts = name.split(".")
    for part, known in _CLASSES.items():
        if part in parts:
            return known
    return "hyper-connections"


def official_inventory(config: ModelConfig) -> dict[str, Header]:
    """Tensors of the official FP8 + MXFP4 checkpoint, MTP modules included."""
    weights = logical_weights(config)
    for number in range(config.num_nextn_predict_layers):
        weights |= _mtp(config, f"mtp.{number}.")
    inventory: dict[str, Header] = {}
    for name, weight in weights.items():
        inventory |= official_tensors(name, weight, weight.formats[0])
    return inventory


def official_tensors(name: str, weight: LogicalWeight, fmt: str) -> dict[str, Header]:
    """Tensors that hold a logical weight in a format, named by `official_name`.

    Args:
        name: logical name.
        weight: what it is.
        fmt: format of the weight.
    """
    stacked = weight.role == "expert"
    experts = range(weight.shape[0]) if stacked else (None,)
    shapes = weight_format(fmt).component_shapes(weight.shape[1:] if stacked else weight.shape)
    dtypes = [known[0] for known in STORED_DTYPES[fmt]]
    parts = zip(weight_format(fmt).component_names, dtypes, shapes, strict=True)
    headers = {part: Header(dtype, shape) for part, dtype, shape in parts}
    return {
        official_name(name, weight, fmt, part, expert): header
        for expert in experts
        for part, header in headers.items()
    }


def official_name(
    name: str, weight: LogicalWeight, fmt: str, part: str, expert: int | None = None
) -> str:
    """Official name of the tensor with a component of a weight; NVFP4 parts as ModelOpt has them.

    Args:
        name: logical name.
        weight: what it is.
        fmt: format of the weight.
        part: "weight", "scale", "scale_2", or "input_scale" of NVFP4.
        expert: number, for a stacked weight.
    """
    if expert is not None:
        parent, leaf = name.rsplit(".", 1)
        name = f"{parent}.{expert}.{leaf}"
    if weight.bare:
        return name
    modelopt = fmt == "nvfp4" and part.startswith("scale")
    return f"{name}.weight_{part}" if modelopt else f"{name}.{part}"


def _block(config: ModelConfig, prefix: str, layer: LayerConfig) -> dict[str, LogicalWeight]:
    d = config.hidden_size
    weights: dict[str, LogicalWeight] = {}
    for site in ("attn", "ffn"):
        weights |= {
            f"hc_{site}_fn": LogicalWeight((config.hc_rows, config.hc_mult * d), "f32"),
            f"hc_{site}_base": LogicalWeight((config.hc_rows,), "f32"),
            f"hc_{site}_scale": LogicalWeight((3,), "f32"),
            f"{site}_norm": LogicalWeight((d,), "norm"),
        }
    weights |= {f"attn.{name}": w for name, w in _attention(config, layer).items()}
    weights |= {f"ffn.{name}": w for name, w in _moe(config, layer).items()}
    return {prefix + name: weight for name, weight in weights.items()}


def _attention(config: ModelConfig, layer: LayerConfig) -> dict[str, LogicalWeight]:
    d, q, c = config.hidden_size, config.q_lora_rank, config.head_dim
    heads, latent = config.num_attention_heads, config.o_groups * config.o_lora_rank
    weights = {
        "attn_sink": LogicalWeight((heads,), "f32"),
        "wq_a": LogicalWeight((q, d), "linear"),
        "q_norm": LogicalWeight((q,), "norm"),
        "wq_b": LogicalWeight((heads * c, q), "linear"),
        "wkv": LogicalWeight((c, d), "linear"),
        "kv_norm": LogicalWeight((c,), "norm"),
        "wo_a": LogicalWeight((latent, config.group_width), "linear"),
        "wo_b": LogicalWeight((d, latent), "linear"),
    }
    if layer.kind != "swa":
        weights |= _compressor(config, layer, c, "compressor.")
    if layer.kind == "csa":
        heads, width = config.index_n_heads, config.index_head_dim
        weights["indexer.wq_b"] = LogicalWeight((heads * width, q), "linear")
        weights["indexer.weights_proj"] = LogicalWeight((heads, d), "projection")
        weights |= _compressor(config, layer, width, "indexer.compressor.")
    return weights


def _compressor(
    config: ModelConfig, layer: LayerConfig, width: int, prefix: str
) -> dict[str, LogicalWeight]:
    columns = layer.overlap * width
    return {
        f"{prefix}wkv": LogicalWeight((columns, config.hidden_size), "projection"),
        f"{prefix}wgate": LogicalWeight((columns, config.hidden_size), "projection"),
        f"{prefix}ape": LogicalWeight((layer.ratio, columns), "f32"),
        f"{prefix}norm": LogicalWeight((width,), "norm"),
    }


def _moe(config: ModelConfig, layer: LayerConfig) -> dict[str, LogicalWeight]:
    d, inner, experts = config.hidden_size, config.moe_intermediate_size, config.n_routed_experts
    weights = {"gate": LogicalWeight((experts, d), "router")}
    if layer.hash_routing:
        table = (config.vocab_size, config.num_experts_per_tok)
        weights["gate.tid2eid"] = LogicalWeight(table, "ids")
    else:
        weights["gate.bias"] = LogicalWeight((experts,), "f32")
    shapes = {"w1": (inner, d), "w2": (d, inner), "w3": (inner, d)}
    for name, shape in shapes.items():
        weights[f"experts.{name}"] = LogicalWeight((experts, *shape), "expert")
        weights[f"shared_experts.{name}"] = LogicalWeight(shape, "linear")
    return weights


def _head_collapse(config: ModelConfig, prefix: str) -> dict[str, LogicalWeight]:
    streams = config.hc_mult
    return {
        f"{prefix}hc_head_fn": LogicalWeight((streams, streams * config.hidden_size), "f32"),
        f"{prefix}hc_head_base": LogicalWeight((streams,), "f32"),
        f"{prefix}hc_head_scale": LogicalWeight((1,), "f32"),
    }


def _mtp(config: ModelConfig, prefix: str) -> dict[str, LogicalWeight]:
    d = config.hidden_size
    weights = _block(config, prefix, LayerConfig("swa", 0, hash_routing=False))
    weights |= _head_collapse(config, prefix)
    weights |= {f"{prefix}{name}": LogicalWeight((d, d), "linear") for name in ("e_proj", "h_proj")}
    norms = ("enorm", "hnorm", "norm")
    return weights | {f"{prefix}{name}": LogicalWeight((d,), "norm") for name in norms}
