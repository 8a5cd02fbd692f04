"""What a plan is made of: a checkpoint folder, or weights that are made when they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dsv4c.checkpoint.description import check_description
from dsv4c.checkpoint.reader import Checkpoint
from dsv4c.checkpoint.synth import select_layers
from dsv4c.checkpoint.synthetic import SyntheticCheckpoint, synthetic_weights
from dsv4c.checkpoint.tables import check_tables
from dsv4c.models.deepseek_v4.config import ModelConfig, load_config, parse_config
from dsv4c.models.deepseek_v4.names import Ledger, read_ledger
from dsv4c.models.deepseek_v4.released import read_config
from dsv4c.plan.manifest import Synthetic
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
        synthetic: how to make the weights again, for a plan that does not store them.
    """

    name: str
    config: ModelConfig
    checkpoint: Checkpoint
    ledger: Ledger
    files: Mapping[str, Path | str]
    synthetic: Synthetic | None = None


def read_source(model: Path) -> Source:
    """A checkpoint folder; errors as `dsv4c.compile`."""
    config = load_config(model)
    checkpoint = Checkpoint.open(model)
    ledger = read_ledger(config, checkpoint)
    check_description(model, ledger.weights)
    check_tables(checkpoint, ledger.weights, config.n_routed_experts)
    files = {name: inside(model, name) for name in _COPIED if (model / name).is_file()}
    return Source(model.resolve().name, config, checkpoint, ledger, files)


def synthetic_source(raw: Mapping[str, object], checkpoint: SyntheticCheckpoint) -> Source:
    """Random weights that are made when they are read; `raw` is their config.json."""
    ledger = read_ledger(checkpoint.config, checkpoint)
    files = {"config.json": json.dumps(raw, indent=2) + "\n"}
    return Source("synthetic", checkpoint.config, checkpoint, ledger, files)


def random_source(
    config: str,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    experts: str = "nvfp4",
    attention: str = "fp8",
) -> Source:
    """A model of true width with random weights that its plan does not store.

    Args:
        config: a config.json or its folder, or "flash" or "pro".
        layers: numbers of the layers to take, renumbered from 0; all by default.
        seed: another seed, another model.
        experts: format of routed experts.
        attention: format of the linears of attention, indexer and shared experts.

    Raises:
        DsvError: DSV101, DSV20x, DSV301; as `dsv4c.checkpoint.synth.synthesize`.
    """
    raw = read_config(config)
    numbers = list(layers or range(len(parse_config(raw, config).layers)))
    raw = select_layers(raw, numbers, config)
    model = parse_config(raw, config)
    checkpoint = synthetic_weights(model, seed, experts, attention, originals=numbers)
    source = synthetic_source(raw, checkpoint)
    return replace(source, synthetic=Synthetic(seed, experts, attention, numbers))
