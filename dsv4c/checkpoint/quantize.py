"""Making a small checkpoint out of a BF16 one, in the formats that released ones have.

Routed experts become NVFP4 under ModelOpt's names (or MXFP4 as in the official files), the linears of
attention and shared experts become FP8 with one power-of-two scale per 128x128 block. All other
tensors are copied bit for bit. Tensors stream through: one expert is the most that is in memory.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from dsv4c.checkpoint.description import check_description
from dsv4c.checkpoint.quantization_config import HF_QUANT_CONFIG, write_configs
from dsv4c.checkpoint.reader import CONFIG, INDEX, Checkpoint
from dsv4c.checkpoint.writer import CheckpointWriter, new_folder
from dsv4c.errors import DsvError
from dsv4c.ir.weight_codecs import dequantize, quantize
from dsv4c.ir.weight_formats import weight_format
from dsv4c.models.deepseek_v4.config import load_config
from dsv4c.models.deepseek_v4.inventory import (
    Header,
    LogicalWeight,
    logical_weights,
    official_name,
    official_tensors,
)
from dsv4c.models.deepseek_v4.names import Ledger, WeightSource, read_ledger

Progress = Callable[[str, int, int], None]
Named = tuple[str, Tensor]

EXPERT_FORMATS = {"nvfp4": "nvfp4", "mxfp4": "mxfp4", "bf16": "bf16"}
LINEAR_FORMATS = {"fp8": "fp8_128", "fp8-all": "fp8_128", "bf16": "bf16"}
_PLAIN = ("bf16", "f32")


@dataclass(slots=True)
class ClassReport:
    """What became of one class of weights.

    Attributes:
        name: "routed experts", "attention", "shared experts" or "kept".
        format: the new format; "as it was" for kept weights.
        matrices: matrices (experts counted one by one) or tensors.
        source_bytes: bytes before.
        bytes: bytes after, scales included.
    """

    name: str
    format: str
    matrices: int = 0
    source_bytes: int = 0
    bytes: int = 0
    _error: float = field(default=0.0, repr=False)
    _norm: float = field(default=0.0, repr=False)

    @property
    def relative_error(self) -> float:
        """Root of the summed squared errors over the root of the summed squares of the weights."""
        return math.sqrt(self._error / self._norm) if self._norm else 0.0

    def add(self, w: Tensor, back: Tensor) -> None:
        """Count one matrix, given before and after."""
        self.matrices += 1
        self._error += float(torch.linalg.vector_norm(back - w)) ** 2
        self._norm += float(torch.linalg.vector_norm(w)) ** 2


@dataclass(frozen=True, slots=True)
class QuantizeReport:
    """Result of `quantize_checkpoint`: one entry per class of weights."""

    classes: tuple[ClassReport, ...]


def quantize_checkpoint(
    src: str | Path,
    dst: str | Path,
    experts: str = "nvfp4",
    attention: str = "fp8",
    progress: Progress | None = None,
) -> QuantizeReport:
    """Write a quantised copy of a checkpoint, under the official names.

    Args:
        src: checkpoint folder with BF16 or F32 weights, named by any scheme.
        dst: folder to make; nothing is left there if it fails.
        experts: "nvfp4", "mxfp4" or "bf16", for routed experts.
        attention: "fp8" or "bf16", for the linears of attention, indexer and shared experts;
            "fp8-all" takes in the linears of compressors and the indexer's weights, which released
            checkpoints keep in BF16.
        progress: called with a phase, weights done and weights in all.

    Raises:
        DsvError: DSV101, an unknown format; DSV102, `dst` exists; DSV201 to DSV213, the source is
            not valid; DSV301, it is quantised already or its dims do not fit; DSV603, the disk.
    """
    chosen = {
        "expert": _choose("experts", experts, EXPERT_FORMATS),
        "linear": _choose("attention", attention, LINEAR_FORMATS),
    }
    if attention == "fp8-all":
        chosen["projection"] = chosen["linear"]
    source = Checkpoint.open(src)
    config = load_config(src)
    ledger = read_ledger(config, source)
    check_description(source.path, ledger.weights)
    job = _Job(source, ledger, logical_weights(config), chosen)
    headers = job.headers()
    with new_folder(Path(dst)) as folder:
        _copy_side_files(source.path, folder)
        write_configs(source.path / CONFIG, folder, config, chosen["expert"], chosen["linear"])
        writer = CheckpointWriter(folder, headers)
        for done, (name, tensor) in enumerate(job.tensors(), 1):
            writer.write(name, tensor)
            if progress is not None:
                progress("quantize", done, len(headers))
        writer.finish()
    return QuantizeReport(tuple(job.classes.values()))


def _choose(option: str, value: str, formats: dict[str, str]) -> str:
    if value not in formats:
        known = ", ".join(formats)
        message = f"{option} has no such format"
        raise DsvError("DSV101", message, where=option, expected=known, found=value)
    return formats[value]


def _copy_side_files(src: Path, dst: Path) -> None:
    """Everything but weights and configs: tokenizer, generation settings, texts."""
    skipped = (CONFIG, INDEX, HF_QUANT_CONFIG)
    for file in sorted(src.iterdir()):
        side = file.suffix in (".json", ".txt", ".jinja", ".model") and file.name not in skipped
        if side and file.is_file():
            shutil.copyfile(file, dst / file.name)


class _Job:
    """One run: which weights change, what that makes, and the tensors one after another."""

    def __init__(
        self,
        source: Checkpoint,
        ledger: Ledger,
        weights: dict[str, LogicalWeight],
        chosen: dict[str, str],
    ) -> None:
        self.source, self.ledger, self.weights, self.chosen = source, ledger, weights, chosen
        self.classes = {
            "routed experts": ClassReport("routed experts", chosen["expert"]),
            "attention": ClassReport("attention", chosen["linear"]),
            "shared experts": ClassReport("shared experts", chosen["linear"]),
            "kept": ClassReport("kept", "as it was"),
        }
        for name, weight in weights.items():
            self._require_convertible(name, weight)
            fmt, before = self._format(name), ledger.weights[name].format
            report = self._class(name)
            report.source_bytes += weight_format(before).nbytes(weight.shape)
            report.bytes += weight_format(fmt).nbytes(weight.shape)

    def headers(self) -> dict[str, Header]:
        """Every tensor of the output."""
        headers: dict[str, Header] = {}
        for name, weight in self.weights.items():
            fmt, source = self._format(name), self.ledger.weights[name]
            if not self._changes(name):
                dtypes = [self.source.tensors[s[0].name].dtype for _, s in source.components]
                widened = fmt == "f32"
                headers |= official_tensors(name, weight, fmt, None if widened else dtypes)
                continue
            headers |= official_tensors(name, weight, fmt)
            if fmt == "nvfp4":
                for expert in range(weight.shape[0]):
                    headers[official_name(name, weight, fmt, "input_scale", expert)] = Header(
                        "F32", ()
                    )
        for name in self.ledger.ignored:
            info = self.source.tensors[name]
            headers[name] = Header(info.dtype, info.shape)
        return headers

    def tensors(self) -> Iterator[Named]:
        """The same tensors with their values."""
        for name, weight in self.weights.items():
            if weight.role != "expert":
                yield from self._convert(name, weight)
                continue
            for expert in range(weight.shape[0]):
                yield from self._convert(name, weight, expert)
        for name in self.ledger.ignored:
            yield name, self.source.read(name)

    def _convert(
        self, name: str, weight: LogicalWeight, expert: int | None = None
    ) -> Iterator[Named]:
        source, fmt, report = self.ledger.weights[name], self._format(name), self._class(name)
        tensors = self._read(source, expert)
        if not self._changes(name):
            report.matrices += 1
        else:
            shape = weight.shape if expert is None else weight.shape[1:]
            w = dequantize(source.format, tensors, shape)
            amax = self._shared_amax(name, expert) if fmt == "nvfp4" else None
            tensors = quantize(fmt, w, amax)
            report.add(w, dequantize(fmt, tensors, shape))
            if fmt == "nvfp4":
                yield official_name(name, weight, fmt, "input_scale", expert), torch.tensor(1.0)
        for part, tensor in zip(weight_format(fmt).component_names, tensors, strict=True):
            yield official_name(name, weight, fmt, part, expert), tensor

    def _read(self, source: WeightSource, expert: int | None) -> tuple[Tensor, ...]:
        if expert is None:
            return self.source.read_weight(source)
        return self.source.read_expert(source, expert)

    def _shared_amax(self, name: str, expert: int | None) -> Tensor:
        """Largest magnitude of an expert's matrix; w1 and w3 share it, because engines fuse them."""
        parent, leaf = name.rsplit(".", 1)
        names = [name] if leaf == "w2" else [f"{parent}.w1", f"{parent}.w3"]
        sources = [self.ledger.weights[n] for n in names]
        tensors = [self._read(source, expert)[0] for source in sources]
        return torch.stack([tensor.to(torch.float32).abs().amax() for tensor in tensors]).amax()

    def _format(self, name: str) -> str:
        """Format after the run; the head is a projection outside of layers, and stays."""
        before, role = self.ledger.weights[name].format, self.weights[name].role
        if role == "projection" and ".attn." not in name:
            return before
        return self.chosen.get(role, before)

    def _changes(self, name: str) -> bool:
        return self._format(name) != self.ledger.weights[name].format

    def _class(self, name: str) -> ClassReport:
        role = self.weights[name].role
        if role == "expert":
            return self.classes["routed experts"]
        if role != "linear" and not self._changes(name):
            return self.classes["kept"]
        return self.classes["shared experts" if ".shared_experts." in name else "attention"]

    def _require_convertible(self, name: str, weight: LogicalWeight) -> None:
        fmt, before = self._format(name), self.ledger.weights[name].format
        if self._changes(name) and before not in _PLAIN:
            raise DsvError(
                "DSV301",
                "a weight is quantised already",
                where=f"weight {name}",
                expected=f"{' or '.join(_PLAIN)}, or {fmt} as asked for",
                found=before,
                hint="start from the BF16 checkpoint: quantising twice loses more",
            )
        block = weight_format(fmt).block
        if weight.shape[-1] % block:
            raise DsvError(
                "DSV301",
                f"a weight does not fit {fmt}",
                where=f"weight {name}",
                expected=f"rows that are a multiple of {block} long",
                found=f"shape {list(weight.shape)}",
            )
