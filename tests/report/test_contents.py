"""A full-size checkpoint told from its headers, and what is missing or does not belong."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dsv4c.checkpoint.reader import Checkpoint
from dsv4c.checkpoint.writer import header_bytes, shard_layout
from dsv4c.models.deepseek_v4.config import parse_config
from dsv4c.models.deepseek_v4.inventory import Header, official_inventory
from dsv4c.report.contents import contents_view
from dsv4c.report.selection import Selection

ALL = Selection()
FLASH: dict[str, Any] = {
    "architectures": ["DeepseekV4ForCausalLM"],
    "model_type": "deepseek_v4",
    "vocab_size": 129280,
    "hidden_size": 4096,
    "num_hidden_layers": 43,
    "num_attention_heads": 64,
    "head_dim": 512,
    "qk_rope_head_dim": 64,
    "q_lora_rank": 1024,
    "o_groups": 8,
    "o_lora_rank": 1024,
    "compress_ratios": [0, 0, *[4, 128] * 20, 4, 0],
    "sliding_window": 128,
    "index_n_heads": 64,
    "index_head_dim": 128,
    "index_topk": 512,
    "n_routed_experts": 256,
    "num_experts_per_tok": 6,
    "moe_intermediate_size": 2048,
    "routed_scaling_factor": 1.5,
    "num_hash_layers": 3,
    "swiglu_limit": 10.0,
    "hc_mult": 4,
    "hc_sinkhorn_iters": 20,
    "hc_eps": 1e-6,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "compress_rope_theta": 160000,
    "rope_scaling": None,
    "max_position_embeddings": 1048576,
    "num_nextn_predict_layers": 1,
    "expert_dtype": "fp4",
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
}
SMALL = FLASH | {
    "num_hidden_layers": 3,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "compress_ratios": [0, 4, 128, 0],
    "num_hash_layers": 1,
}


def sparse(folder: Path, config: dict[str, Any], headers: Mapping[str, Header]) -> Path:
    """A checkpoint folder with true headers and holes for data."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    head, _ = shard_layout(headers)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(head)
        file.truncate(len(head) + sum(header_bytes(header) for header in headers.values()))
    return folder


@pytest.mark.slow
def test_flash_from_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_data(*_: object) -> None:
        raise AssertionError("tensor bytes were read")

    monkeypatch.setattr(Checkpoint, "read_range", no_data)
    folder = sparse(tmp_path / "flash", FLASH, official_inventory(parse_config(FLASH)))
    started = time.perf_counter()
    view, error = contents_view(folder, ALL)
    assert time.perf_counter() - started < 30
    assert error is None
    assert (view["tensors"], view["bytes"]) == (69_187, 159_609_485_896)
    assert {one["format"] for one in view["formats"]} == {"mxfp4", "fp8_128", "bf16", "f32", "i64"}
    classes = {(one["name"], one["format"]): one for one in view["classes"]}
    experts = classes["routed experts", "mxfp4"]
    assert (experts["layers"], experts["weights"]) == (list(range(43)), 3 * 43)
    assert experts["tensors"] == 2 * 3 * 43 * 256
    assert experts["parameters"] == 3 * 43 * 256 * 2048 * 4096
    assert experts["bytes"] == experts["parameters"] * 17 // 32
    assert classes["indexer", "fp8_128"]["layers"] == list(range(2, 43, 2))
    assert classes["router", "i64"]["layers"] == [0, 1, 2]
    (ignored,) = view["ignored"]
    assert (ignored["count"], ignored["bytes"]) == (1_575, 3_593_787_756)
    used = sum(one["bytes"] for one in view["formats"])
    assert used + ignored["bytes"] == view["bytes"]


def test_a_selection(tmp_path: Path) -> None:
    folder = sparse(tmp_path / "small", SMALL, official_inventory(parse_config(SMALL)))
    view, _ = contents_view(folder, Selection(layer=2, pattern="*.ffn.experts.w2"))
    assert [weight["name"] for weight in view["weights"]] == ["layers.2.ffn.experts.w2"]
    assert view["classes"][0]["tensors"] == 8


Headers = dict[str, Header]


def rename(headers: Headers) -> None:
    headers["layers.1.attn.wq_x.weight"] = headers.pop("layers.1.attn.wq_a.weight")


def reshape(headers: Headers) -> None:
    headers["norm.weight"] = Header("BF16", (4095,))


def lose_experts(headers: Headers) -> None:
    for name in [name for name in headers if name.startswith("layers.2.ffn.experts.3.")]:
        del headers[name]


@pytest.mark.parametrize(
    ("change", "missing", "unused", "wrong"),
    [
        (rename, ["layers.1.attn.wq_a.weight"], ["layers.1.attn.wq_x.weight"], []),
        (reshape, [], [], ["norm.weight"]),
        (lose_experts, [f"layers.2.ffn.experts.3.w{n}.weight" for n in (1, 2, 3)], [], []),
    ],
)
def test_every_problem_is_listed(
    tmp_path: Path,
    change: Callable[[Headers], None],
    missing: list[str],
    unused: list[str],
    wrong: list[str],
) -> None:
    headers = official_inventory(parse_config(SMALL))
    change(headers)
    view, error = contents_view(sparse(tmp_path / "small", SMALL, headers), ALL)
    assert error is not None
    assert error.code == "DSV212"
    assert (view["missing"], view["unused"], view["wrong"]) == (missing, unused, wrong)


def test_contradictions_are_errors(tmp_path: Path) -> None:
    config = SMALL | {"expert_dtype": "fp8"}
    folder = sparse(tmp_path / "small", config, official_inventory(parse_config(SMALL)))
    view, error = contents_view(folder, ALL)
    assert view["missing"] == []
    assert error is not None
    assert "expert_dtype fp8" in str(error)
