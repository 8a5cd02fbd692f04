"""Quantised copies of a checkpoint: names, values, configs, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dsv4c.checkpoint.quantize import quantize_checkpoint
from dsv4c.checkpoint.reader import Checkpoint
from dsv4c.errors import DsvError
from dsv4c.ir.weight_codecs import dequantize, quantize
from dsv4c.models.deepseek_v4.config import load_config
from dsv4c.models.deepseek_v4.inventory import Header, logical_weights
from dsv4c.models.deepseek_v4.names import read_ledger

W = "layers.1.ffn.experts.2"


def values(folder: Path) -> dict[str, torch.Tensor]:
    opened = Checkpoint.open(folder)
    ledger = read_ledger(load_config(folder), opened)
    return {
        name: dequantize(source.format, opened.read_weight(source), source.shape)
        for name, source in ledger.weights.items()
    }


def formats(folder: Path) -> dict[str, str]:
    ledger = read_ledger(load_config(folder), Checkpoint.open(folder))
    return {name: source.format for name, source in ledger.weights.items()}


def test_default_formats_and_names(checkpoint: Path, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    quantize_checkpoint(checkpoint, tmp_path / "q", progress=lambda *a: calls.append(a))
    opened = Checkpoint.open(tmp_path / "q")
    headers = {name: (info.dtype, info.shape) for name, info in opened.tensors.items()}
    assert headers[f"{W}.w1.weight"] == ("U8", (32, 32))
    assert headers[f"{W}.w1.weight_scale"] == ("F8_E4M3", (32, 4))
    assert headers[f"{W}.w1.weight_scale_2"] == ("F32", ())
    assert headers[f"{W}.w1.input_scale"] == ("F32", ())
    assert headers["layers.0.attn.wo_a.weight"] == ("F8_E4M3", (48, 256))
    assert headers["layers.0.attn.wo_a.scale"] == ("F8_E8M0", (1, 2))
    assert headers["layers.1.attn.indexer.wq_b.scale"] == ("F8_E8M0", (2, 1))
    assert headers["layers.2.ffn.shared_experts.w2.scale"] == ("F8_E8M0", (1, 1))
    assert opened.read(f"{W}.w1.input_scale").item() == 1.0
    roles = {n: w.role for n, w in logical_weights(load_config(checkpoint)).items()}
    for name, fmt in formats(tmp_path / "q").items():
        expected = {"expert": "nvfp4", "linear": "fp8_128", "f32": "f32", "ids": "i64"}
        assert fmt == expected.get(roles[name], "bf16"), name
    assert [done for _, done, _ in calls] == list(range(1, len(calls) + 1))
    assert {(phase, total) for phase, _, total in calls} == {("quantize", len(calls))}


def test_gate_and_up_share_their_scale(checkpoint: Path, tmp_path: Path) -> None:
    quantize_checkpoint(checkpoint, tmp_path / "q")
    source, opened = Checkpoint.open(checkpoint), Checkpoint.open(tmp_path / "q")
    for expert in range(3):
        stem = f"layers.1.ffn.experts.{expert}"
        w1, w2, w3 = (source.read(f"{stem}.w{i}.weight").float() for i in (1, 2, 3))
        joint = torch.maximum(w1.abs().amax(), w3.abs().amax()) / 2688
        scales = [opened.read(f"{stem}.w{i}.weight_scale_2") for i in (1, 2, 3)]
        assert scales[0] == scales[2] == joint
        assert scales[1] == w2.abs().amax() / 2688
        expected = quantize("nvfp4", w3, amax=joint * 2688)
        assert torch.equal(opened.read(f"{stem}.w3.weight"), expected[0])


def test_values_and_report(checkpoint: Path, tmp_path: Path) -> None:
    report = quantize_checkpoint(checkpoint, tmp_path / "q")
    before, after = values(checkpoint), values(tmp_path / "q")
    assert before.keys() == after.keys()
    limits = {"routed experts": 0.1, "attention": 0.03, "shared experts": 0.03, "kept": 0.0}
    roles = {n: w.role for n, w in logical_weights(load_config(checkpoint)).items()}
    for entry in report.classes:
        assert 0 <= entry.relative_error <= limits[entry.name]
    kept = [name for name, role in roles.items() if role not in ("expert", "linear")]
    assert all(torch.equal(before[name], after[name]) for name in kept)
    experts = [name for name, role in roles.items() if role == "expert"]
    error = sum(float((after[n] - before[n]).square().sum()) for n in experts)
    norm = sum(float(before[n].square().sum()) for n in experts)
    entry = report.classes[0]
    assert entry.relative_error == pytest.approx((error / norm) ** 0.5, rel=1e-4)
    assert (entry.name, entry.format, entry.matrices) == ("routed experts", "nvfp4", 27)
    assert entry.bytes == sum(32 * 64 // 2 + 32 * 64 // 16 + 4 for _ in range(27))
    assert entry.source_bytes == 27 * 32 * 64 * 2


def test_configs(checkpoint: Path, tmp_path: Path) -> None:
    quantize_checkpoint(checkpoint, tmp_path / "q")
    config = json.loads((tmp_path / "q" / "config.json").read_text())
    quantization = config.pop("quantization_config")
    assert config == json.loads((checkpoint / "config.json").read_text())
    assert quantization["quant_method"] == "fp8"
    assert quantization["moe_quant_algo"] == "NVFP4"
    assert quantization["weight_block_size"] == [128, 128]
    layer = {"quant_algo": "NVFP4", "group_size": 16}
    assert quantization["quantized_layers"]["layers.2.ffn.experts"] == layer
    other = json.loads((tmp_path / "q" / "hf_quant_config.json").read_text())
    assert other["producer"] == quantization["producer"]
    assert other["quantization"]["exclude_modules"] == quantization["ignore"]
    assert (tmp_path / "q" / "tokenizer.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("experts", "attention", "expected", "method"),
    [
        ("mxfp4", "fp8", ("mxfp4", "fp8_128"), "fp8"),
        ("bf16", "fp8", ("bf16", "fp8_128"), "fp8"),
        ("fp8", "bf16", ("fp8_128", "bf16"), "fp8"),
        ("nvfp4", "bf16", ("nvfp4", "bf16"), "modelopt"),
        ("nvfp4", "nvfp4", ("nvfp4", "nvfp4"), "modelopt"),
        ("fp8", "nvfp4", ("fp8_128", "nvfp4"), "fp8"),
        ("bf16", "bf16", ("bf16", "bf16"), None),
    ],
)
def test_other_formats(
    checkpoint: Path,
    tmp_path: Path,
    experts: str,
    attention: str,
    expected: tuple[str, str],
    method: str | None,
) -> None:
    quantize_checkpoint(checkpoint, tmp_path / "q", experts=experts, attention=attention)
    found = formats(tmp_path / "q")
    assert (found["layers.0.ffn.experts.w2"], found["layers.0.attn.wkv"]) == expected
    config = json.loads((tmp_path / "q" / "config.json").read_text())
    assert config.get("quantization_config", {}).get("quant_method") == method
    assert config.get("expert_dtype") == {"mxfp4": "fp4", "fp8": "fp8"}.get(experts)
    assert (tmp_path / "q" / "hf_quant_config.json").exists() == ("nvfp4" in (experts, attention))
    wo_a = attention.replace("nvfp4", "bf16").replace("fp8", "fp8_128")
    assert found["layers.0.attn.wo_a"] == wo_a
    if method is None:
        before, after = values(checkpoint), values(tmp_path / "q")
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_again_is_a_copy_and_another_format_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    quantize_checkpoint(checkpoint, tmp_path / "q")
    quantize_checkpoint(tmp_path / "q", tmp_path / "copy")
    first, second = Checkpoint.open(tmp_path / "q"), Checkpoint.open(tmp_path / "copy")
    assert first.tensors.keys() == second.tensors.keys()
    assert all(torch.equal(first.read(name), second.read(name)) for name in first.tensors)
    with pytest.raises(DsvError, match="quantised already") as error:
        quantize_checkpoint(tmp_path / "q", tmp_path / "other", experts="mxfp4")
    assert error.value.code == "DSV301"
    assert not (tmp_path / "other").exists()


def test_mtp_tensors_are_copied(
    headers: dict[str, Header], tmp_path: Path, write_checkpoint: Callable[..., None]
) -> None:
    tensors: dict[str, torch.Tensor] = {"mtp.0.e_proj.weight": torch.randn(4, 4).bfloat16()}
    dtypes = {"BF16": torch.bfloat16, "F32": torch.float32, "I64": torch.int64}
    for name, header in headers.items():
        tensors[name] = torch.ones(header.shape, dtype=dtypes[header.dtype])
    write_checkpoint(tmp_path / "model", tensors)
    quantize_checkpoint(tmp_path / "model", tmp_path / "q")
    name = "mtp.0.e_proj.weight"
    assert torch.equal(Checkpoint.open(tmp_path / "q").read(name), tensors[name])


def test_refusals_leave_nothing(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(DsvError, match=r"DSV101[\s\S]*int4"):
        quantize_checkpoint(checkpoint, tmp_path / "q", experts="int4")
    (tmp_path / "there").mkdir()
    with pytest.raises(DsvError, match="DSV102"):
        quantize_checkpoint(checkpoint, tmp_path / "there")
    config = json.loads((checkpoint / "config.json").read_text())
    config["moe_intermediate_size"] = 48
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(DsvError, match="DSV212"):
        quantize_checkpoint(checkpoint, tmp_path / "q")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "there"]
