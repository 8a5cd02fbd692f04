"""A small BF16 checkpoint with random weights, in official names."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flavours
import pytest
import torch

from dsv4c.checkpoint.writer import CheckpointWriter
from dsv4c.models.deepseek_v4.config import parse_config
from dsv4c.models.deepseek_v4.inventory import Header, logical_weights, official_tensors

CONFIG: dict[str, Any] = flavours.CONFIG | {"o_lora_rank": 24}
_BF16 = ("linear", "expert", "projection", "router", "table", "norm")


def random_tensors(headers: Mapping[str, Header]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    for name, header in headers.items():
        if header.dtype == "I64":
            tensors[name] = torch.randint(0, 3, header.shape, generator=generator)
        else:
            dtype = torch.bfloat16 if header.dtype == "BF16" else torch.float32
            tensors[name] = torch.randn(header.shape, generator=generator).to(dtype)
    return tensors


@pytest.fixture
def headers() -> dict[str, Header]:
    """Tensors of the checkpoint."""
    out: dict[str, Header] = {}
    for name, weight in logical_weights(parse_config(CONFIG)).items():
        fmt = "bf16" if weight.role in _BF16 else weight.formats[0]
        out |= official_tensors(name, weight, fmt)
    return out


@pytest.fixture
def write_checkpoint() -> Callable[..., None]:
    """Write tensors, with CONFIG and a side file, in shards of at least `shard_bytes`."""

    def write(
        folder: Path, tensors: Mapping[str, torch.Tensor], shard_bytes: int = 1 << 30
    ) -> None:
        dtypes = {torch.bfloat16: "BF16", torch.float32: "F32", torch.int64: "I64"}
        headers = {n: Header(dtypes[t.dtype], tuple(t.shape)) for n, t in tensors.items()}
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(CONFIG))
        (folder / "tokenizer.json").write_text("{}")
        writer = CheckpointWriter(folder, headers, shard_bytes)
        for name, tensor in tensors.items():
            writer.write(name, tensor)
        writer.finish()

    return write


@pytest.fixture
def checkpoint(
    tmp_path: Path, headers: dict[str, Header], write_checkpoint: Callable[..., None]
) -> Path:
    """The checkpoint folder, three shards."""
    folder = tmp_path / "model"
    write_checkpoint(folder, random_tensors(headers), shard_bytes=280_000)
    return folder
