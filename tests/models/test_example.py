"""The bundled model: its NVFP4 and FP8 weights against transformers, and what its formats cost."""

from __future__ import annotations

import json
from pathlib import Path

import oracle
import pytest
import torch
from drive import in_parts
from safetensors.torch import save_file

import dsv4c
from dsv4c.checkpoint.reader import Checkpoint
from dsv4c.ir.weight_codecs import dequantize
from dsv4c.models.deepseek_v4.config import load_config
from dsv4c.models.deepseek_v4.inventory import logical_weights, official_name
from dsv4c.models.deepseek_v4.names import resolve_weights
from dsv4c.tokenizer import Tokenizer

EXAMPLE = Path(__file__).parents[2] / "examples" / "tiny-dsv4-nvfp4"
COUNT = 260


@pytest.fixture(scope="module")
def ids() -> list[int]:
    text = (EXAMPLE / "eval.txt").read_text(encoding="utf-8")
    return Tokenizer.load(EXAMPLE).encode(text)[: COUNT + 1]


@pytest.fixture(scope="module")
def logits(tmp_path_factory: pytest.TempPathFactory, ids: list[int]) -> dict[str, torch.Tensor]:
    """Logits of every position in exact mode (`f32`) and as compiled by default (`fp8`)."""
    folder = tmp_path_factory.mktemp("example")
    modes = {"f32": "float32", "fp8": "bfloat16"}
    plans = {
        cache: dsv4c.compile(EXAMPLE, folder / cache, dtype=dtype, kv_cache=cache)
        for cache, dtype in modes.items()
    }
    return {cache: in_parts(plan, ids[:-1], [COUNT]) for cache, plan in plans.items()}


def dequantized(folder: Path) -> Path:
    """The example with every weight in BF16 or F32 and official names."""
    config, checkpoint = load_config(EXAMPLE), Checkpoint.open(EXAMPLE)
    sources = resolve_weights(config, checkpoint)
    tensors: dict[str, torch.Tensor] = {}
    for name, weight in logical_weights(config).items():
        source = sources[name]
        value = checkpoint.read_weight(source)[0]
        if source.format in ("fp8_128", "nvfp4"):
            value = dequantize(source.format, checkpoint.read_weight(source), source.shape)
        if weight.role != "expert":
            tensors[official_name(name, weight, "bf16", "weight")] = value
            continue
        for expert, share in enumerate(value):
            tensors[official_name(name, weight, "bf16", "weight", expert)] = share.clone()
    save_file(tensors, folder / "model.safetensors")
    raw = json.loads((EXAMPLE / "config.json").read_text(encoding="utf-8"))
    del raw["quantization_config"]
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_exact_mode_equals_transformers_on_the_decoded_weights(
    tmp_path: Path, ids: list[int], logits: dict[str, torch.Tensor]
) -> None:
    wanted = oracle.logits(oracle.load(dequantized(tmp_path)), ids[:-1])
    assert (logits["f32"] - wanted).abs().max().item() <= 2e-4
    assert torch.equal(logits["f32"].argmax(-1), wanted.argmax(-1))


@pytest.mark.slow
def test_default_formats_cost_little(ids: list[int], logits: dict[str, torch.Tensor]) -> None:
    log_p, log_q = (logits[cache].double().log_softmax(-1) for cache in ("f32", "fp8"))
    nats = [torch.nn.functional.nll_loss(x, torch.tensor(ids[1:])).item() for x in (log_p, log_q)]
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    assert nats[0] < 3.5
    assert abs(nats[1] - nats[0]) < 0.02
    assert kl.mean().item() < 0.01
    assert (log_p.argmax(-1) == log_q.argmax(-1)).double().mean().item() > 0.95
