"""What a plan is made of: a checkpoint folder, or weights that are made when they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dsv4c.checkpoint.description import check_description
from dsv4c.checkpoint.reader import Checkpoint
from dsv4c.checkpoint.synthetic import SyntheticCheckpoint
from dsv4c.models.deepseek_v4.config import ModelConfig, load_config
from dsv4c.models.deepseek_v4.names import Ledger, read_ledger
from dsv4c.untrusted import inside

_COPIED = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")


@dataclass(frozen=True, slots=True)
class Source:
    """What a plan is made of.

    Attributes:
        name: of the model.
        config: its configuration.
        checkpoint: its tensors.
        ledger: which of them make which weight.
        files: what the plan keeps beside them, by name: a file, or its text.
    """

    name: str
    config: ModelConfig
    checkpoint: Checkpoint
    ledger: Ledger
    files: Mapping[str, Path | str]


def read_source(model: Path) -> Source:
    """A checkpoint folder; errors as `dsv4c.compile`."""
    config = load_config(model)
    checkpoint = Checkpoint.open(model)
    ledger = read_ledger(config, checkpoint)
    check_description(model, ledger.weights)
    files = {name: inside(model, name) for name in _COPIED if (model / name).is_file()}
    return Source(model.resolve().name, config, checkpoint, ledger, files)


def synthetic_source(raw: Mapping[str, object], checkpoint: SyntheticCheckpoint) -> Source:
    """Random weights that are made when they are read; `raw` is their config.json."""
    ledger = read_ledger(checkpoint.config, checkpoint)
    files = {"config.json": json.dumps(raw, indent=2) + "\n"}
    return Source("synthetic", checkpoint.config, checkpoint, ledger, files)
