"""Conversions between quantised formats, which tensors are shared, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from dsv4c.checkpoint import conversion
from dsv4c.checkpoint.quantize import QuantizeReport, quantize_checkpoint
from dsv4c.checkpoint.reader import Checkpoint
from dsv4c.checkpoint.writer import CheckpointWriter
from dsv4c.errors import DsvError
from dsv4c.ir.weight_codecs import dequantize
from dsv4c.models.deepseek_v4.config import load_config
from dsv4c.models.deepseek_v4.inventory import Header
from dsv4c.models.deepseek_v4.names import read_ledger

W1 = "layers.1.ffn.experts.2.w1"


def values(folder: Path) -> dict[str, torch.Tensor]:
    opened = Checkpoint.open(folder)
    ledger = read_ledger(load_config(folder), opened)
    return {
        name: dequantize(source.format, opened.read_weight(source), source.shape)
        for name, source in ledger.weights.items()
    }


def same_bits(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[name].view(torch.int32), b[name].view(torch.int32)) for name in a
    )


def errors(report: QuantizeReport) -> dict[str, float]:
    return {one.name: one.relative_error for one in report.classes}


def rewrite(folder: Path, changes: Mapping[str, torch.Tensor]) -> None:
    """Replace tensors of a checkpoint in place."""
    opened = Checkpoint.open(folder)
    for name, tensor in changes.items():
        info = opened.tensors[name]
        with (folder / info.file).open("r+b") as file:
            file.seek(info.start)
            file.write(tensor.numpy().tobytes())


@pytest.fixture
def official(checkpoint: Path, tmp_path: Path) -> Path:
    """FP8 attention and MXFP4 experts, as DeepSeek publishes."""
    quantize_checkpoint(checkpoint, tmp_path / "official", experts="mxfp4")
    return tmp_path / "official"


def test_mxfp4_experts_become_nvfp4_bit_for_bit(official: Path, tmp_path: Path) -> None:
    report = quantize_checkpoint(official, tmp_path / "q")
    assert set(errors(report).values()) == {0.0}
    assert same_bits(values(official), values(tmp_path / "q"))
    before, after = Checkpoint.open(official), Checkpoint.open(tmp_path / "q")
    for expert in range(3):
        stem = f"layers.2.ffn.experts.{expert}"
        for leaf in ("w1", "w2", "w3"):
            codes = [opened.read(f"{stem}.{leaf}.weight") for opened in (before, after)]
            assert torch.equal(*codes)
        joint = max(int(before.read(f"{stem}.{leaf}.scale").max()) for leaf in ("w1", "w3"))
        shared = [after.read(f"{stem}.{leaf}.weight_scale_2").item() for leaf in ("w1", "w3")]
        assert shared == [2.0 ** (joint - 127 - 8)] * 2


def test_a_spread_that_forbids_the_cast(official: Path, tmp_path: Path) -> None:
    scale = Checkpoint.open(official).read(f"{W1}.scale")
    scale[3, 0] = 90
    rewrite(official, {f"{W1}.scale": scale})
    with pytest.raises(DsvError, match="without loss") as error:
        quantize_checkpoint(official, tmp_path / "q")
    assert error.value.code == "DSV301"
    assert error.value.where.endswith(f"model.safetensors, tensor {W1}.weight")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "official"]


def test_mxfp4_becomes_fp8_and_everything_bf16_without_loss(official: Path, tmp_path: Path) -> None:
    report = quantize_checkpoint(official, tmp_path / "fp8", experts="fp8")
    assert errors(report)["routed experts"] == 0.0
    quantize_checkpoint(official, tmp_path / "bf16", experts="bf16", attention="bf16")
    assert same_bits(values(official), values(tmp_path / "bf16"))
    assert "quantization_config" not in json.loads((tmp_path / "bf16" / "config.json").read_text())
    assert same_bits(values(official), values(tmp_path / "fp8"))


def test_nvfp4_becomes_bf16_without_leftovers(checkpoint: Path, tmp_path: Path) -> None:
    quantize_checkpoint(checkpoint, tmp_path / "q")
    report = quantize_checkpoint(tmp_path / "q", tmp_path / "bf16", experts="bf16")
    assert 0 < errors(report)["routed experts"] < 2.0**-8
    names = Checkpoint.open(tmp_path / "bf16").tensors
    assert not any("scale_2" in name or "input_scale" in name for name in names)


def test_fp8_attention_becomes_nvfp4(official: Path, tmp_path: Path) -> None:
    report = quantize_checkpoint(official, tmp_path / "q", attention="nvfp4")
    found = errors(report)
    assert found["routed experts"] == 0.0
    assert 0.05 < found["attention"] < 0.12
    (attention,) = [one for one in report.classes if one.name == "attention"]
    assert attention.format == "nvfp4, fp8_128"  # wo_a stays as it is
    quantization = json.loads((tmp_path / "q" / "hf_quant_config.json").read_text())["quantization"]
    assert "layers.1.attn.indexer.wq_b" in quantization["quantized_layers"]
    assert "layers.1.attn.wo_a" not in quantization["quantized_layers"]


def test_float32_block_scales_count_as_fp8(
    headers: dict[str, Header], checkpoint: Path, tmp_path: Path
) -> None:
    """The base flavour: FP8 experts whose scales are float32."""
    base, opened = tmp_path / "base", Checkpoint.open(checkpoint)
    wide: dict[str, tuple[Header, torch.Tensor]] = {}
    for name, header in headers.items():
        tensor = opened.read(name)
        wide[name] = header, tensor
        if ".experts." in name:
            codes = (tensor.float() / 0.01).to(torch.float8_e4m3fn).view(torch.uint8)
            wide[name] = Header("F8_E4M3", header.shape), codes
            scale = name.replace(".weight", ".scale")
            wide[scale] = Header("F32", (1, 1)), torch.full((1, 1), 0.01)
    base.mkdir()
    (base / "config.json").write_text((checkpoint / "config.json").read_text())
    writer = CheckpointWriter(base, {name: header for name, (header, _) in wide.items()})
    for name, (_, tensor) in wide.items():
        writer.write(name, tensor)
    writer.finish()
    report = quantize_checkpoint(base, tmp_path / "same", experts="fp8", attention="bf16")
    assert report.classes[0].format == "fp8_128_f32"
    assert same_bits(values(base), values(tmp_path / "same"))
    report = quantize_checkpoint(base, tmp_path / "q", attention="bf16")
    assert report.classes[0].format == "nvfp4"
    assert 0.05 < report.classes[0].relative_error < 0.12


def test_results_do_not_depend_on_blocks_or_threads(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = quantize_checkpoint(checkpoint, tmp_path / "a", jobs=1)
    monkeypatch.setattr(conversion, "_BLOCK_ELEMENTS", 1)
    second = quantize_checkpoint(checkpoint, tmp_path / "b", jobs=4)
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    assert errors(first) == pytest.approx(errors(second), rel=1e-5)


@pytest.mark.parametrize("experts", ["mxfp4", "fp8"])
def test_nvfp4_is_not_quantised_again(checkpoint: Path, tmp_path: Path, experts: str) -> None:
    quantize_checkpoint(checkpoint, tmp_path / "q")
    with pytest.raises(DsvError, match="quantised already"):
        quantize_checkpoint(tmp_path / "q", tmp_path / "again", experts=experts)


def test_mixed_projections_share_the_largest_magnitude(
    checkpoint: Path, tmp_path: Path, write_checkpoint: Callable[..., None]
) -> None:
    opened = Checkpoint.open(checkpoint)
    tensors = {name: opened.read(name) for name in opened.tensors}
    tensors[f"{W1}.weight"] = tensors[f"{W1}.weight"].float() * 3
    w1 = [name for name in tensors if name.startswith("layers.1.ffn.experts.") and ".w1." in name]
    tensors |= {name: tensors[name].float() for name in w1}
    write_checkpoint(tmp_path / "mixed", tensors)
    quantize_checkpoint(tmp_path / "mixed", tmp_path / "q")
    after = Checkpoint.open(tmp_path / "q")
    w3 = W1.replace("w1", "w3")
    amax = max(tensors[f"{name}.weight"].float().abs().max().item() for name in (W1, w3))
    for name in (W1, w3):
        assert after.read(f"{name}.weight_scale_2").item() == pytest.approx(amax / 2688)
