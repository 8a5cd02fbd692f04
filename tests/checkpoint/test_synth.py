"""Synthetic checkpoints: layers, formats, loading, and the same bits in memory as on the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import small
import torch

import dsv4c
from dsv4c import api
from dsv4c.checkpoint.reader import Checkpoint
from dsv4c.checkpoint.synth import select_layers, synthesize
from dsv4c.checkpoint.synthetic import ATTENTION, EXPERTS, synthetic_weights
from dsv4c.errors import DsvError
from dsv4c.ir.weight_codecs import dequantize
from dsv4c.models.deepseek_v4.config import load_config, parse_config
from dsv4c.models.deepseek_v4.names import read_ledger
from dsv4c.models.deepseek_v4.released import RELEASED, read_config
from dsv4c.source import synthetic_source

DIMS = {"hidden_size": 64, "q_lora_rank": 32, "o_lora_rank": 32, "moe_intermediate_size": 96}


@pytest.fixture
def config(tmp_path: Path) -> str:
    """Five layers: csa and hash, hca, swa, csa, hca."""
    raw = small.small_config(num_hidden_layers=5, compress_ratios=[4, 128, 0, 4, 128], **DIMS)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(raw))
    return str(path)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = Checkpoint.open(folder)
    return {name: checkpoint.read(name) for name in checkpoint.tensors}


def test_a_layer_has_the_same_weights_whatever_else_is_chosen(config: str, tmp_path: Path) -> None:
    for name, layers in (("all", None), ("some", [4, 0]), ("last", [4])):
        synthesize(config, tmp_path / name, layers)
    whole, some, last = (tensors(tmp_path / name) for name in ("all", "some", "last"))
    assert len(some) < len(whole)
    for name, tensor in last.items():
        assert torch.equal(tensor, some[name]), name
        assert torch.equal(tensor, whole[name.replace("layers.0.", "layers.4.")]), name
    for name in (n for n in some if n.startswith("layers.1.")):
        assert torch.equal(some[name], whole[name.replace("layers.1.", "layers.0.")]), name
    synthesize(config, tmp_path / "again", [4])
    synthesize(config, tmp_path / "other", [4], seed=1)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "last" / file).read_bytes()
    other = tensors(tmp_path / "other")
    assert not any(torch.equal(t, last[n]) for n, t in other.items() if t.numel() > 1)


def test_chosen_layers_keep_their_kind(config: str, tmp_path: Path) -> None:
    synthesize(config, tmp_path / "out", [2, 0, 4])
    made = load_config(tmp_path / "out")
    assert [layer.kind for layer in made.layers] == ["swa", "csa", "hca"]
    assert [layer.hash_routing for layer in made.layers] == [False, True, False]
    assert made.num_nextn_predict_layers == 0


def test_both_flavours_of_config() -> None:
    kinds = ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"]
    raw = small.small_config(
        num_hidden_layers=3, layer_types=kinds, mlp_layer_types=["hash_moe", "hash_moe", "moe"]
    )
    del raw["compress_ratios"], raw["num_hash_layers"]
    front = select_layers(raw, [1, 2], "config.json")
    assert (front["layer_types"], front["num_hash_layers"]) == (kinds[1:], 1)
    back = select_layers(raw, [2, 0], "config.json")
    assert "num_hash_layers" not in back
    assert back["mlp_layer_types"] == ["moe", "hash_moe"]
    assert [layer.hash_routing for layer in parse_config(back).layers] == [False, True]


@pytest.mark.parametrize("layers", [[], [5], [-1], [0, 0]])
def test_layers_that_cannot_be_chosen(config: str, tmp_path: Path, layers: list[int]) -> None:
    with pytest.raises(DsvError) as caught:
        synthesize(config, tmp_path / "out", layers)
    assert (caught.value.code, caught.value.expected) == ("DSV101", "different numbers of 0 to 4")
    assert not (tmp_path / "out").exists()


def test_a_format_that_the_dims_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(small.small_config()))
    with pytest.raises(DsvError, match="cannot be mxfp4") as caught:
        synthesize(str(path), tmp_path / "out", experts="mxfp4")
    assert caught.value.code == "DSV301"
    with pytest.raises(DsvError, match="no such configuration"):
        synthesize(str(tmp_path / "none.json"), tmp_path / "out")


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("experts", EXPERTS)
def test_every_format_loads(config: str, tmp_path: Path, experts: str, attention: str) -> None:
    """As a checkpoint of that kind, described as such, and in memory bit for bit the same."""
    size = synthesize(config, tmp_path / "out", [0, 2], 7, experts, attention)
    checkpoint = Checkpoint.open(tmp_path / "out")
    assert size == sum(info.nbytes for info in checkpoint.tensors.values())
    model = load_config(tmp_path / "out")
    assert dsv4c.compile(tmp_path / "out", tmp_path / "plan").path.exists()
    ledger = read_ledger(model, checkpoint)
    for name, source in ledger.weights.items():
        w = dequantize(source.format, checkpoint.read_weight(source), source.shape)
        if ".experts." in name:
            assert source.format == EXPERTS[experts]
        elif name.endswith((".wq_b", ".shared_experts.w2")):
            assert source.format == ATTENTION[attention]
        if len(w.shape) > 1 and "tid2eid" not in name and not name.endswith("ape"):
            # An FP8 matrix of one block may have half or twice the usual scale.
            low, high = (0.4, 2.2) if source.format == "fp8_128" else (0.8, 1.25)
            assert low < float(w.std()) * w.shape[-1] ** 0.5 < high, name
    memory = synthetic_weights(model, 7, experts, attention, originals=[0, 2])
    assert {n: (i.dtype, i.shape) for n, i in memory.tensors.items()} == {
        n: (i.dtype, i.shape) for n, i in checkpoint.tensors.items()
    }
    for name in checkpoint.tensors:
        assert torch.equal(memory.read(name), checkpoint.read(name)), name


def test_values_of_small_tensors(config: str) -> None:
    model = load_config(config)
    memory = synthetic_weights(model)
    sources = read_ledger(model, memory).weights
    read = {n: memory.read_weight(s)[0] for n, s in sources.items() if len(s.shape) < 3}
    assert abs(float(read["layers.1.ffn.gate.bias"].mean()) - 8.08) < 0.1
    assert abs(float(read["layers.1.attn_norm"].float().mean()) - 1) < 0.1
    comb = read["layers.0.hc_attn_base"][8:].view(4, 4)
    assert float(comb.diagonal().mean()) > float(comb.mean()) + 0.5
    ids = read["layers.0.ffn.gate.tid2eid"]
    assert (ids.dtype, ids.shape) == (torch.int64, (small.VOCAB, 2))
    assert 0 <= int(ids.min()) <= int(ids.max()) < 6
    assert bool((ids[:, 0] != ids[:, 1]).all())
    w1, w3 = (memory.read_weight(sources[f"layers.1.ffn.experts.{w}"])[2] for w in ("w1", "w3"))
    assert torch.equal(w1, w3)


def run(plan: dsv4c.Plan) -> torch.Tensor:
    session = plan.session(1, 160)
    ids = [(7 * i) % small.VOCAB for i in range(150)]
    return session.prefill(session.open(), ids, return_logits="all")


def test_activations_stay_finite_and_of_one_size(config: str, tmp_path: Path) -> None:
    raw: dict[str, Any] = read_config(config)
    raw |= {"num_hidden_layers": 40, "compress_ratios": [4, 128, 0, 4] * 10}
    memory = synthetic_weights(parse_config(raw), experts="nvfp4", attention="fp8")
    logits = run(api.compile_source(lambda: synthetic_source(raw, memory), tmp_path / "plan"))
    assert bool(torch.isfinite(logits).all())
    assert 0.3 < float(logits.std()) < 3


def test_a_plan_from_memory_is_that_of_the_folder(config: str, tmp_path: Path) -> None:
    synthesize(config, tmp_path / "model")
    raw = json.loads((tmp_path / "model" / "config.json").read_text())
    memory = synthetic_weights(parse_config(raw))
    first = dsv4c.compile(tmp_path / "model", tmp_path / "first").manifest
    second = api.compile_source(lambda: synthetic_source(raw, memory), tmp_path / "second").manifest
    different = {"events.jsonl"}
    assert first.weights == second.weights
    assert {k: v for k, v in first.files.items() if k not in different} == {
        k: v for k, v in second.files.items() if k not in different
    }


@pytest.mark.parametrize("name", RELEASED)
def test_true_width(name: str) -> None:
    """One layer of each kind of the released sizes, without writing or making what is not read."""
    raw = read_config(name)
    model = parse_config(select_layers(raw, [0, 2, 3], name))
    memory = synthetic_weights(model, experts="mxfp4", originals=[0, 2, 3])
    source = read_ledger(model, memory).weights["layers.1.ffn.experts.w2"]
    w = dequantize("mxfp4", memory.read_expert(source, 5), source.shape[1:])
    assert w.shape == (model.hidden_size, model.moe_intermediate_size)
    assert abs(float(w.std()) * model.moe_intermediate_size**0.5 - 1) < 0.1
    logits = synthetic_weights(model).read_range("head.weight", 10**8, 1000)
    assert bool(torch.isfinite(logits).all())
