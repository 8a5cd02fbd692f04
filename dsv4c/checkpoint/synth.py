"""Writing a checkpoint of true width with random weights, of all layers of a model or of some."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import cast

from torch import Tensor

from dsv4c.checkpoint.quantization_config import write_configs
from dsv4c.checkpoint.reader import CONFIG, PIECE_BYTES
from dsv4c.checkpoint.synthetic import SyntheticCheckpoint, synthetic_weights
from dsv4c.checkpoint.writer import CheckpointWriter, new_folder
from dsv4c.errors import DsvError
from dsv4c.models.deepseek_v4.config import parse_config
from dsv4c.models.deepseek_v4.inventory import Header
from dsv4c.models.deepseek_v4.released import read_config
from dsv4c.settings import JOBS

Progress = Callable[[str, int, int], None]
Json = dict[str, object]


def select_layers(raw: Mapping[str, object], layers: Sequence[int], where: str) -> Json:
    """A config.json for some layers of a model, in the given order, without MTP modules.

    Args:
        raw: config.json of the whole model.
        layers: numbers of layers.
        where: the file, for messages.

    Raises:
        DsvError: DSV101, a layer does not exist or is named twice; as `load_config`.
    """
    config = parse_config(raw, where)
    count = len(config.layers)
    if not layers or len(set(layers)) < len(layers) or not set(layers) <= set(range(count)):
        raise DsvError(
            "DSV101",
            "these layers cannot be chosen",
            where="layers",
            expected=f"different numbers of 0 to {count - 1}",
            found=",".join(map(str, layers)) or "none",
        )
    hashed = [config.layers[number].hash_routing for number in layers]
    out = dict(raw) | {"num_hidden_layers": len(layers), "num_nextn_predict_layers": 0}
    for name in ("compress_ratios", "layer_types"):
        if raw.get(name) is not None:
            out[name] = [cast(list[object], raw[name])[number] for number in layers]
    out.pop("mlp_layer_types", None)
    out["num_hash_layers"] = sum(hashed)
    if hashed != sorted(hashed, reverse=True):
        # The official field can only say how many layers are hashed at the front.
        del out["num_hash_layers"]
        out["mlp_layer_types"] = ["hash_moe" if one else "moe" for one in hashed]
    return out


def synthesize(
    config: str,
    out: str | Path,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    experts: str = "nvfp4",
    attention: str = "fp8",
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> int:
    """Write a checkpoint with random weights under the official names; see `synthetic_weights`.

    In memory are pieces of 8 MB, one per thread.

    Args:
        config: a config.json or its folder, or "flash" or "pro".
        out: folder to make; nothing is left there if it fails.
        layers: numbers of the layers to take, renumbered from 0; all by default.
        seed: another seed, another model.
        experts: format of routed experts.
        attention: format of the linears of attention, indexer and shared experts.
        jobs: threads that make tensors; the setting DSV4C_JOBS by default.
        progress: called with a phase, tensors done and tensors in all.

    Returns:
        Bytes of all tensors.

    Raises:
        DsvError: DSV101, DSV102 (arguments), DSV20x (config), DSV301 (dims that a format cannot
            hold), DSV603 (disk).
    """
    raw = read_config(config)
    numbers = range(len(parse_config(raw, config).layers)) if layers is None else layers
    raw = select_layers(raw, list(numbers), config)
    model = parse_config(raw, config)
    source = synthetic_weights(model, seed, experts, attention, originals=numbers)
    headers = {name: Header(info.dtype, info.shape) for name, info in source.tensors.items()}
    with new_folder(Path(out)) as folder:
        (folder / CONFIG).write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
        formats = {one.name: one.format for one in source.known.values()}
        write_configs(folder / CONFIG, folder, formats)
        writer = CheckpointWriter(folder, headers)

        def write(name: str) -> None:
            writer.write_pieces(name, _pieces(source, name))

        with ThreadPoolExecutor(JOBS.resolve(jobs).value) as pool:
            for done, _ in enumerate(pool.map(write, headers), 1):
                if progress is not None:
                    progress("synth", done, len(headers))
        writer.finish()
    return writer.total_bytes


def _pieces(source: SyntheticCheckpoint, name: str) -> Iterator[Tensor]:
    count = prod(source.tensors[name].shape)
    size = PIECE_BYTES // 2
    for first in range(0, count, size):
        yield source.read_range(name, first, min(size, count - first))
