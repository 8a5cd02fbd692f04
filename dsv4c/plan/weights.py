"""Weights of a plan: components stacked as kernels take them, in safetensors shards."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from dsv4c.checkpoint.reader import Checkpoint
from dsv4c.errors import DsvError
from dsv4c.ir.graph import Graph
from dsv4c.ir.types import WeightType
from dsv4c.ir.values import Weight
from dsv4c.ir.weight_formats import weight_format
from dsv4c.models.deepseek_v4.names import WeightSource
from dsv4c.plan import manifest
from dsv4c.plan.files import inside

SHARD_BYTES = 1 << 30


def write_weights(
    folder: Path,
    graph: Graph,
    checkpoint: Checkpoint,
    sources: Mapping[str, WeightSource],
    progress: Callable[[int, int], None],
) -> dict[str, manifest.Weight]:
    """Store every weight that the graph reads under `folder/weights`.

    Memory stays below one shard plus the largest weight.

    Args:
        folder: the plan under construction.
        graph: its weights are written, in order.
        checkpoint: where the tensors come from.
        sources: which tensors make each weight.
        progress: called with (weights done, weights in all).

    Raises:
        DsvError: DSV211 or DSV213 from reading.
    """
    (folder / "weights").mkdir()
    entries: dict[str, manifest.Weight] = {}
    shard: dict[str, torch.Tensor] = {}
    held, number = 0, 1
    for done, name in enumerate(graph.weights):
        progress(done, len(graph.weights))
        source = sources[name]
        tensors = checkpoint.read_weight(source)
        size = sum(tensor.nbytes for tensor in tensors)
        if shard and held + size > SHARD_BYTES:
            _save(shard, folder / _shard(number))
            shard, held, number = {}, 0, number + 1
        components: list[manifest.Component] = []
        for part, tensor in zip(weight_format(source.format).component_names, tensors, strict=True):
            key = f"{name}/{part}"
            shard[key] = tensor.contiguous()
            dtype = str(tensor.dtype).removeprefix("torch.")
            components.append(manifest.Component(key, _shard(number), dtype, list(tensor.shape)))
        held += size
        entries[name] = manifest.Weight(
            source.format, list(source.shape), components, list(graph.sources[name])
        )
    _save(shard, folder / _shard(number))
    progress(len(graph.weights), len(graph.weights))
    return entries


def _save(shard: dict[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file. Raises OSError, which the library hides in an error of its own."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(shard, path)
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        code = int(number[1])
        raise OSError(code, os.strerror(code), str(path)) from error


def _shard(number: int) -> str:
    return f"weights/weights-{number:05d}.safetensors"


def read_weights(
    root: Path, graph: Graph, entries: Mapping[str, manifest.Weight], device: torch.device
) -> dict[str, Weight]:
    """Every weight of the graph on a device.

    Args:
        root: the plan folder, its files already verified.
        graph: says which weights there must be, with types.
        entries: the manifest's weight map.
        device: where the components go.

    Raises:
        DsvError: DSV231 if map, files and graph do not agree.
    """
    from safetensors import safe_open

    files = {part.file for entry in entries.values() for part in entry.components}
    opened = {
        name: safe_open(inside(root, name), framework="pt", device=str(device))
        for name in sorted(files)
    }
    stored = {(name, key) for name, file in opened.items() for key in file.keys()}  # noqa: SIM118
    weights: dict[str, Weight] = {}
    for name in graph.weights:
        type_ = graph.types[name]
        assert isinstance(type_, WeightType)
        entry = entries.get(name)
        if entry is None or (entry.format, tuple(entry.dims)) != (type_.format, type_.dims):
            raise _mismatch(root, name, str(type_), str(entry))
        spec = weight_format(type_.format)
        if len(entry.components) != len(spec.components):
            raise _mismatch(root, name, ", ".join(spec.component_names), str(entry.components))
        tensors: list[torch.Tensor] = []
        shapes = spec.component_shapes(type_.dims)
        for part, known, shape in zip(entry.components, spec.components, shapes, strict=True):
            if (part.file, part.tensor) not in stored:
                raise _mismatch(root, part.tensor, f"a tensor of {part.file}", "nothing")
            tensor = opened[part.file].get_tensor(part.tensor)
            if tuple(tensor.shape) != tuple(shape) or tensor.dtype != known.torch_dtype:
                wanted = f"{list(shape)} of {known.torch_dtype}"
                raise _mismatch(root, part.tensor, wanted, f"{list(tensor.shape)} {tensor.dtype}")
            tensors.append(tensor)
        weights[name] = Weight(type_, tuple(tensors))
    return weights


def _mismatch(root: Path, name: str, expected: str, found: str) -> DsvError:
    return DsvError(
        "DSV231",
        "a weight of the plan does not fit its graph",
        where=f"{root}, weight {name}",
        expected=expected,
        found=found,
        hint="compile the plan again",
    )
