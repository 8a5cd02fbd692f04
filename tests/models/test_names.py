"""Inventory of the released sizes, the naming schemes, and a ledger that lets nothing slip."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import pytest
import torch

from dsv4c.errors import DsvError
from dsv4c.models.deepseek_v4.aliases import TensorKey, parse_name
from dsv4c.models.deepseek_v4.config import ModelConfig, parse_config
from dsv4c.models.deepseek_v4.inventory import Header, logical_weights, official_inventory
from dsv4c.models.deepseek_v4.names import TensorSlice, read_ledger, resolve_weights

MakeConfig = Callable[..., dict[str, Any]]
Headers = dict[str, Header]
BYTES = {"BF16": 2, "F32": 4, "F8_E4M3": 1, "F8_E8M0": 1, "I8": 1, "I64": 8}


@dataclass
class FakeCheckpoint:
    tensors: Mapping[str, Header]


@pytest.fixture
def small(flash: MakeConfig) -> ModelConfig:
    """Four layers with every kind of attention and routing, experts in blocks of 32."""
    return parse_config(
        flash(
            hidden_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            head_dim=32,
            qk_rope_head_dim=8,
            q_lora_rank=24,
            o_groups=2,
            o_lora_rank=16,
            compress_ratios=[0, 4, 128, 4, 0],
            index_n_heads=8,
            index_head_dim=16,
            n_routed_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=32,
            num_hash_layers=1,
            vocab_size=320,
        )
    )


def test_flash_inventory_equals_the_published_index(flash: MakeConfig) -> None:
    inventory = official_inventory(parse_config(flash()))
    assert len(inventory) == 69_187
    assert sum(prod(t.shape) * BYTES[t.dtype] for t in inventory.values()) == 159_609_485_896
    assert Counter(t.dtype for t in inventory.values()) == {
        "BF16": 433,
        "F32": 417,
        "F8_E4M3": 375,
        "F8_E8M0": 34_167,
        "I64": 3,
        "I8": 33_792,
    }
    mtp = [t for name, t in inventory.items() if name.startswith("mtp.")]
    assert (len(mtp), sum(prod(t.shape) * BYTES[t.dtype] for t in mtp)) == (1_575, 3_593_787_756)


def test_pro_inventory_equals_the_published_index(pro: MakeConfig) -> None:
    inventory = official_inventory(parse_config(pro()))
    assert len(inventory) == 145_116
    assert sum(prod(t.shape) * BYTES[t.dtype] for t in inventory.values()) == 864_704_792_696


def test_official_flash_resolves(flash: MakeConfig) -> None:
    config = parse_config(flash())
    ledger = read_ledger(config, FakeCheckpoint(official_inventory(config)))
    assert list(ledger.weights) == list(logical_weights(config))
    assert set(ledger.ignored.values()) == {"multi-token prediction is not built"}
    assert len(ledger.ignored) == 1_575
    experts = ledger.weights["layers.7.ffn.experts.w2"]
    assert (experts.format, experts.shape) == ("mxfp4", (256, 4096, 2048))
    name, slices = experts.components[1]
    assert name == "scale"
    assert slices[255] == TensorSlice("layers.7.ffn.experts.255.w2.scale")
    wo_a = ledger.weights["layers.7.attn.wo_a"]
    assert wo_a.format == "fp8_128"
    assert wo_a.components[0] == ("weight", (TensorSlice("layers.7.attn.wo_a.weight"),))


def modelopt(headers: Headers) -> Headers:
    """Give the routed experts ModelOpt's NVFP4 parts."""
    out: Headers = {}
    for name, header in headers.items():
        if ".experts." not in name or name.startswith("mtp."):
            out[name] = header
        elif name.endswith(".weight"):
            rows, packed = header.shape
            out[name] = Header("U8", header.shape)
            out[f"{name}_scale"] = Header("F8_E4M3", (rows, packed // 8))
            out[f"{name}_scale_2"] = Header("F32", ())
            out[name.replace(".weight", ".input_scale")] = Header("F32", ())
    return out


def test_modelopt_names(small: ModelConfig) -> None:
    ledger = read_ledger(small, FakeCheckpoint(modelopt(official_inventory(small))))
    source = ledger.weights["layers.2.ffn.experts.w3"]
    assert source.format == "nvfp4"
    assert [name for name, _ in source.components] == ["weight", "scale", "scale_2"]
    assert source.components[2][1][3].name == "layers.2.ffn.experts.3.w3.weight_scale_2"
    reason = "activations are not quantised"
    assert ledger.ignored["layers.2.ffn.experts.3.w3.input_scale"] == reason
    assert ledger.weights["layers.2.attn.wq_b"].format == "fp8_128"


def test_transformers_names() -> None:
    transformers = pytest.importorskip("transformers")
    settings = transformers.DeepseekV4Config(
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
        n_routed_experts=4,
        num_hash_layers=1,
        compress_ratios=[0, 4, 128, 4],
        index_n_heads=8,
        index_head_dim=16,
        architectures=["DeepseekV4ForCausalLM"],
    )
    with torch.device("meta"):
        state = transformers.DeepseekV4ForCausalLM(settings).state_dict()
    dtypes = {torch.float32: "F32", torch.int64: "I64"}
    headers = {name: Header(dtypes[t.dtype], tuple(t.shape)) for name, t in state.items()}
    config = parse_config(settings.to_dict())
    ledger = read_ledger(config, FakeCheckpoint(headers))
    assert ledger.ignored == {}
    up = ledger.weights["layers.1.ffn.experts.w3"]
    fused = "model.layers.1.mlp.experts.gate_up_proj"
    assert up.components == (("weight", (TensorSlice(fused, (32, 64)),)),)
    assert up.shape == (4, 32, 64)
    bare = {name.removeprefix("model."): header for name, header in headers.items()}
    assert read_ledger(config, FakeCheckpoint(bare)).weights.keys() == ledger.weights.keys()


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("model.layers.3.attn_hc.scale", TensorKey("layers.3.hc_attn_scale", None, "")),
        ("layers.3.hc_attn_scale", TensorKey("layers.3.hc_attn_scale", None, "")),
        ("layers.3.attn.wq_a.scale", TensorKey("layers.3.attn.wq_a", None, "scale")),
        (
            "model.layers.3.self_attn.q_a_proj.weight_scale_inv",
            TensorKey("layers.3.attn.wq_a", None, "scale"),
        ),
        (
            "model.layers.3.mlp.experts.12.gate_proj.weight",
            TensorKey("layers.3.ffn.experts.w1", 12, "weight"),
        ),
        (
            "layers.3.mlp.experts.gate_up_proj_scale_inv",
            TensorKey("layers.3.ffn.experts.w13", None, "scale"),
        ),
        ("layers.3.attn.norm.weight", TensorKey("layers.3.attn.kv_norm", None, "weight")),
        ("head.weight", TensorKey("head", None, "weight")),
        ("layers.03.attn.wq_a.weight", TensorKey("layers.03.attn.wq_a", None, "weight")),
    ],
)
def test_names_are_translated(name: str, key: TensorKey) -> None:
    assert parse_name(name) == key


def test_experts_by_transformers_names_and_fused_mxfp4(small: ModelConfig) -> None:
    official = official_inventory(small)
    leaves = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
    renamed: Headers = {}
    for name, header in official.items():
        parts = name.split(".")
        if ".ffn.experts." in name and not name.startswith("mtp."):
            parts[5] = leaves[parts[5]]
        renamed[".".join(parts)] = header
    source = resolve_weights(small, FakeCheckpoint(renamed))["layers.0.ffn.experts.w2"]
    assert source.components[1][1][2].name == "layers.0.ffn.experts.2.down_proj.scale"

    fused = {n: h for n, h in official.items() if ".ffn.experts." not in n or n.startswith("mtp.")}
    for layer in range(4):
        stem = f"layers.{layer}.mlp.experts."
        fused[f"{stem}gate_up_proj"] = Header("I8", (4, 64, 32))
        fused[f"{stem}gate_up_proj_scale_inv"] = Header("F8_E8M0", (4, 64, 2))
        fused[f"{stem}down_proj"] = Header("I8", (4, 64, 16))
        fused[f"{stem}down_proj_scale_inv"] = Header("F8_E8M0", (4, 64, 1))
    source = resolve_weights(small, FakeCheckpoint(fused))["layers.3.ffn.experts.w3"]
    assert source.format == "mxfp4"
    assert [slices[0].rows for _, slices in source.components] == [(32, 64), (32, 64)]


def test_bf16_of_float32_weights_and_unused_hash_bias(small: ModelConfig) -> None:
    headers = official_inventory(small)
    headers["layers.1.attn.attn_sink"] = Header("BF16", (4,))
    headers["layers.0.ffn.gate.bias"] = Header("F32", (4,))
    ledger = read_ledger(small, FakeCheckpoint(headers))
    assert ledger.weights["layers.1.attn.attn_sink"].format == "f32"
    assert ledger.ignored["layers.0.ffn.gate.bias"] == "a hash layer routes by its table"


def rename(old: str, new: str) -> Callable[[Headers], None]:
    def change(headers: Headers) -> None:
        headers[new] = headers.pop(old)

    return change


def put(name: str, dtype: str, *shape: int) -> Callable[[Headers], None]:
    def change(headers: Headers) -> None:
        headers[name] = Header(dtype, shape, "model-1.safetensors")

    return change


def drop(name: str) -> Callable[[Headers], None]:
    def change(headers: Headers) -> None:
        del headers[name]

    return change


WQ = "layers.1.attn.wq_a"
W1 = "layers.2.ffn.experts.3.w1"
BAD = [
    (drop("norm.weight"), "tensor norm.weight", "missing"),
    (drop(f"{WQ}.scale"), f"tensor {WQ}.scale", "missing"),
    (drop(f"{W1}.weight"), f"tensor {W1}.weight", "missing"),
    (drop(f"{W1}.scale"), f"tensor {W1}.scale", "missing"),
    (drop("layers.3.attn.indexer.compressor.ape"), "indexer.compressor.ape", "missing"),
    (rename(f"{WQ}.weight", f"{WQ}x.weight"), WQ, f"did you mean {WQ}x.weight"),
    (rename("embed.weight", "embed"), "embed.weight", "did you mean embed?"),
    (rename(f"{W1}.weight", "layers.2.ffn.experts.03.w1.weight"), W1, "did you mean"),
    (put("layers.1.attn.wq_c.weight", "BF16", 3), "wq_c", r"did you mean layers\.1\.attn\.wq_"),
    (put("layers.4.attn_norm.weight", "BF16", 64), "layers.4", "does not use"),
    (put("layers.0.ffn.experts.4.w1.weight", "I8", 32, 32), "experts.4", "does not use"),
    (put("embed.scale", "F8_E8M0", 3, 1), "embed.scale", "does not use"),
    (put(f"{WQ}.weight_scale_inv", "F8_E8M0", 1, 1), WQ, "two tensors"),
    (put("norm.weight", "BF16", 65), "norm.weight", r"expected: \[64\]\n  found:    \[65\]"),
    (put("norm.weight", "BF16", 64, 1), "norm.weight", "shape"),
    (put("norm.weight", "F16", 64), "norm.weight", "found:    F16"),
    (put("norm.weight", "I8", 64), "norm.weight", "a format of bf16, f32"),
    (put(f"{WQ}.scale", "F8_E8M0", 1, 2), WQ, "shape"),
    (put(f"{WQ}.scale", "F8_E4M3", 1, 1), WQ, "expected: F8_E8M0"),
    (put(f"{W1}.weight", "I8", 32, 33), W1, "shape"),
    (put(f"{W1}.weight_scale_2", "F32"), W1, "expected: F8_E4M3"),
    (put(f"{W1}.weight", "BF16", 32, 64), W1, "different formats"),
    (put("layers.0.ffn.gate.tid2eid", "I32", 320, 2), "tid2eid", "found:    I32"),
    (put("layers.1.hc_attn_fn", "F8_E4M3", 24, 256), "hc_attn_fn", "a format of f32"),
]


@pytest.mark.parametrize(("change", "where", "text"), BAD, ids=[f"{w}: {t}" for _, w, t in BAD])
def test_nothing_slips(
    small: ModelConfig, change: Callable[[Headers], None], where: str, text: str
) -> None:
    headers = official_inventory(small)
    change(headers)
    with pytest.raises(DsvError, match=text) as error:
        resolve_weights(small, FakeCheckpoint(headers))
    assert error.value.code == "DSV212"
    assert where in error.value.where
