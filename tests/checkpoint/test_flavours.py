"""Every flavour loads with no flag, with the formats and values it was made from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import flavours
import pytest
import torch

import dsv4c
from dsv4c.checkpoint.description import check_description
from dsv4c.checkpoint.quantize import quantize_checkpoint
from dsv4c.checkpoint.reader import Checkpoint
from dsv4c.ir.weight_codecs import dequantize
from dsv4c.models.deepseek_v4.config import load_config
from dsv4c.models.deepseek_v4.names import read_ledger

# By hand: 3 layers of 5 + 3 + 3 linears and the indexer's one; 7 + 3 + 2 + 3 in float32.
PLAIN = {"bf16": 28, "f32": 29, "i64": 1}
LINEARS: dict[str, dict[str, int]] = {
    "bf16": {"bf16": 34},
    "official": {"mxfp4": 9, "fp8_128": 25},
    "modelopt": {"nvfp4": 9, "fp8_128": 25},
    "everywhere": {"nvfp4": 31, "bf16": 3},
    "transformers": {"bf16": 34},
    "base": {"fp8_128_f32": 34},
}


@pytest.mark.parametrize("flavour", flavours.FLAVOURS)
def test_formats_and_values(flavour: str, tmp_path: Path) -> None:
    folder = flavours.FLAVOURS[flavour](tmp_path / flavour)
    config, opened = load_config(folder), Checkpoint.open(folder)
    ledger = read_ledger(config, opened)
    check_description(folder, ledger.weights)
    found = Counter(source.format for source in ledger.weights.values())
    assert found == Counter(PLAIN) + Counter(LINEARS[flavour])
    reasons = set(ledger.ignored.values())
    assert reasons == {
        "official": {"multi-token prediction is not built"},
        "modelopt": {"activations are not quantised"},
        "everywhere": {"activations are not quantised"},
    }.get(flavour, set())
    exact = flavours.random_tensors()
    for name in ("layers.1.attn.wq_b", "layers.2.ffn.shared_experts.w2", "head", "norm"):
        source = ledger.weights[name]
        values = dequantize(source.format, opened.read_weight(source), source.shape)
        before = exact[f"{name}.weight"][1].float()
        assert float((values - before).norm() / before.norm()) < 0.12
    for leaf in ("w1", "w2", "w3"):
        source = ledger.weights[f"layers.1.ffn.experts.{leaf}"]
        values = dequantize(source.format, opened.read_weight(source), source.shape)
        for expert in range(3):
            before = exact[f"layers.1.ffn.experts.{expert}.{leaf}.weight"][1].float()
            assert float((values[expert] - before).norm() / before.norm()) < 0.15
            alone = dequantize(source.format, opened.read_expert(source, expert), before.shape)
            assert torch.equal(alone, values[expert])


def test_a_copy_has_official_names(tmp_path: Path) -> None:
    """Of transformers' NVFP4, input scales included, and of fused experts."""
    source = flavours.everywhere(tmp_path / "everywhere")
    quantize_checkpoint(source, tmp_path / "copy", attention="nvfp4")
    original = Checkpoint.open(tmp_path / "everywhere-official")
    copy = Checkpoint.open(tmp_path / "copy")
    assert copy.tensors.keys() == original.tensors.keys()
    assert all(torch.equal(copy.read(name), original.read(name)) for name in copy.tensors)
    fused = flavours.transformers(tmp_path / "fused")
    quantize_checkpoint(fused, tmp_path / "plain", experts="bf16", attention="bf16")
    tensors = flavours.load(tmp_path / "plain")
    exact = flavours.random_tensors()
    assert tensors.keys() == exact.keys()
    assert all(torch.equal(tensors[name][1], exact[name][1]) for name in tensors)


@pytest.mark.slow
def test_every_flavour_runs(tmp_path: Path) -> None:
    """The same model in six flavours: equal logits without rounding, near ones with it."""
    logits: dict[str, torch.Tensor] = {}
    for flavour, make in flavours.FLAVOURS.items():
        folder, out = make(tmp_path / flavour), tmp_path / f"{flavour}-plan"
        plan = dsv4c.compile(folder, out, dtype="float32", kv_cache="f32")
        session = plan.session(max_sequences=1, max_tokens=64)
        ids = list(range(2, 40))
        logits[flavour] = session.prefill(session.open(), ids, return_logits="all")
    exact = logits["bf16"]
    assert torch.equal(logits["transformers"], exact)
    for flavour, found in logits.items():
        error = float((found - exact).norm() / exact.norm())
        assert error < (0.04 if flavour == "everywhere" else 0.015), flavour
