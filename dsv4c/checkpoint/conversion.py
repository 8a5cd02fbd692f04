"""What becomes of each weight when a checkpoint is quantised, one unit of work at a time.

A unit is a weight, one expert's matrix, or the w1 and w3 of an expert, which share their NVFP4
scale_2 because engines fuse them. Matrices are converted in blocks of rows, so that beside the stored
tensors of a unit only a few blocks of float32 are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsv4c.checkpoint.reader import Checkpoint
from dsv4c.errors import DsvError
from dsv4c.ir.weight_casts import cast_mxfp4_to_nvfp4, largest_exponent
from dsv4c.ir.weight_codecs import dequantize, quantize
from dsv4c.ir.weight_formats import FP8_BLOCK, weight_format
from dsv4c.models.deepseek_v4.aliases import parse_name
from dsv4c.models.deepseek_v4.inventory import (
    Header,
    LogicalWeight,
    official_name,
    official_tensors,
)
from dsv4c.models.deepseek_v4.names import Ledger

Write = Callable[[str, Tensor], None]

_PLAIN = ("bf16", "f32")
_FP8 = ("fp8_128", "fp8_128_f32")
# Formats that a weight may be made from, because they hold more; bf16 can be made from any.
_SOURCES: Mapping[str, tuple[str, ...]] = {
    "fp8_128": (*_PLAIN, "mxfp4"),
    "mxfp4": (*_PLAIN, *_FP8),
    "nvfp4": (*_PLAIN, *_FP8, "mxfp4"),
}
_BLOCK_ELEMENTS = 1 << 22


@dataclass(frozen=True, slots=True)
class Unit:
    """What one worker does at a time.

    Attributes:
        name: unique.
        weights: logical names; two that share scale_2, or none for a tensor that is only copied.
        expert: number, for routed experts.
    """

    name: str
    weights: tuple[str, ...] = ()
    expert: int | None = None


@dataclass(slots=True)
class Change:
    """Squared sums over what was converted: errors, and the values before."""

    matrices: int = 0
    error: float = 0.0
    norm: float = 0.0

    def add(self, before: Tensor, after: Tensor) -> None:
        self.error += float(torch.linalg.vector_norm(after - before)) ** 2
        self.norm += float(torch.linalg.vector_norm(before)) ** 2


class Conversion:
    """One checkpoint on its way to other formats.

    Args:
        source: the checkpoint.
        ledger: its weights and the tensors beside them.
        weights: what the model is made of.
        chosen: format by role ("expert", "linear", "projection"); other roles stay as they are.

    Raises:
        DsvError: DSV301, a weight cannot take the format, or holds less than the format already.
    """

    def __init__(
        self,
        source: Checkpoint,
        ledger: Ledger,
        weights: Mapping[str, LogicalWeight],
        chosen: Mapping[str, str],
    ) -> None:
        self.source, self.sources, self.weights = source, ledger.weights, weights
        self.formats = {name: self._format(name, chosen) for name in weights}
        for name in weights:
            self._require_convertible(name)
        self.copied = dict(self._copied(ledger.ignored))

    def _format(self, name: str, chosen: Mapping[str, str]) -> str:
        """Format after the run."""
        before, role = self.sources[name].format, self.weights[name].role
        after = chosen.get(role, before)
        # The head is a projection outside of layers. No engine applies the grouped wo_a in 4 bits.
        keeps = (role == "projection" and ".attn." not in name) or (
            after == "nvfp4" and name.endswith(".wo_a")
        )
        return before if keeps or (after, before) == _FP8 else after

    def _require_convertible(self, name: str) -> None:
        before, after = self.sources[name].format, self.formats[name]
        if after in (before, "bf16"):
            return
        if before not in _SOURCES[after]:
            raise DsvError(
                "DSV301",
                "a weight is quantised already",
                where=f"weight {name}",
                expected=f"{' or '.join(_SOURCES[after])}, or {after} as asked for",
                found=before,
                hint="start from the BF16 checkpoint: quantising twice loses more",
            )
        shape, block = self.weights[name].shape, weight_format(after).block
        if shape[-1] % block:
            raise DsvError(
                "DSV301",
                f"a weight does not fit {after}",
                where=f"weight {name}",
                expected=f"rows that are a multiple of {block} long",
                found=f"shape {list(shape)}",
            )

    def _copied(self, ignored: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """Tensors that are no part of the model: name in the output -> name in the source."""
        for name in ignored:
            key = parse_name(name)
            if key.part != "input_scale" or name.startswith("mtp."):
                yield name, name
            elif key.weight in self.weights and self.formats[key.weight] == "nvfp4":
                weight = self.weights[key.weight]
                yield official_name(key.weight, weight, "nvfp4", key.part, key.expert), name

    def changes(self, name: str) -> bool:
        """Whether a weight gets another format."""
        return self.formats[name] != self.sources[name].format

    def headers(self) -> dict[str, Header]:
        """Every tensor of the output."""
        headers: dict[str, Header] = {}
        for name, weight in self.weights.items():
            fmt = self.formats[name]
            headers |= official_tensors(name, weight, fmt)
            if fmt == "nvfp4" and self.changes(name):
                experts = range(weight.shape[0]) if weight.role == "expert" else (None,)
                for expert in experts:
                    input_scale = official_name(name, weight, fmt, "input_scale", expert)
                    headers[input_scale] = Header("F32", ())
        for name, origin in self.copied.items():
            info = self.source.tensors[origin]
            headers[name] = Header(info.dtype, info.shape)
        return headers

    def units(self) -> list[Unit]:
        """All the work, in the order of the output."""
        units: list[Unit] = []
        for name, weight in self.weights.items():
            parent, _, leaf = name.rpartition(".")
            if weight.role != "expert":
                units.append(Unit(name, (name,)))
            elif leaf != "w3":
                names = (name,) if leaf == "w2" else (name, f"{parent}.w3")
                experts = range(weight.shape[0])
                units += [Unit(f"{name}.{expert}", names, expert) for expert in experts]
        return units + [Unit(name) for name in self.copied]

    def tensors(self, unit: Unit) -> list[str]:
        """Names of the tensors that a unit writes."""
        if not unit.weights:
            return [unit.name]
        names: list[str] = []
        for name in unit.weights:
            fmt = self.formats[name]
            parts = list(weight_format(fmt).component_names)
            if fmt == "nvfp4" and self.changes(name):
                parts.append("input_scale")
            weight = self.weights[name]
            names += [official_name(name, weight, fmt, part, unit.expert) for part in parts]
        return names

    def run(self, unit: Unit, write: Write) -> Change:
        """Do one unit.

        Raises:
            DsvError: DSV211, DSV213 from reading; DSV301, exponents that forbid the cast to NVFP4.
        """
        if not unit.weights:
            write(unit.name, self.source.read(self.copied[unit.name]))
            return Change(1)
        stored = [self._read(name, unit.expert) for name in unit.weights]
        change = Change(len(stored))
        for name, tensors in zip(unit.weights, self._convert(unit, stored, change), strict=True):
            weight, fmt = self.weights[name], self.formats[name]
            for part, tensor in zip(weight_format(fmt).component_names, tensors, strict=True):
                write(official_name(name, weight, fmt, part, unit.expert), tensor)
            if fmt == "nvfp4" and self.changes(name):
                input_scale = official_name(name, weight, fmt, "input_scale", unit.expert)
                write(input_scale, torch.tensor(1.0))
        return change

    def _read(self, name: str, expert: int | None) -> tuple[Tensor, ...]:
        source = self.sources[name]
        if expert is None:
            return self.source.read_weight(source)
        return self.source.read_expert(source, expert)

    def _convert(
        self, unit: Unit, stored: Sequence[tuple[Tensor, ...]], change: Change
    ) -> Iterator[tuple[Tensor, ...]]:
        """Components of each weight of a unit in its new format."""
        befores = [self.sources[name].format for name in unit.weights]
        afters = [self.formats[name] for name in unit.weights]
        shared: Tensor | None = None
        if "nvfp4" in afters and befores != afters and any(before != "mxfp4" for before in befores):
            shared = torch.stack(
                [_amax(*pair) for pair in zip(befores, stored, strict=True)]
            ).amax()
        for name, before, after, tensors in zip(unit.weights, befores, afters, stored, strict=True):
            if before == after:
                yield tensors
            elif (before, after) == ("mxfp4", "nvfp4") and shared is None:
                largest = max(largest_exponent(codes, scale) for codes, scale in stored)
                codes, scale = tensors
                where = self._where(name, unit.expert)
                yield cast_mxfp4_to_nvfp4(codes, scale, largest, where)
            else:
                yield _convert_rows(before, after, tensors, shared, change)

    def _where(self, name: str, expert: int | None) -> str:
        """File and tensor of a weight."""
        slices = self.sources[name].components[0][1]
        tensor = slices[expert if expert is not None and len(slices) > 1 else 0].name
        return f"{self.source.path / self.source.tensors[tensor].file}, tensor {tensor}"


def _convert_rows(
    before: str, after: str, tensors: tuple[Tensor, ...], amax: Tensor | None, change: Change
) -> tuple[Tensor, ...]:
    """Decode and encode a matrix, block by block."""
    made: list[tuple[Tensor, ...]] = []
    for w in _rows(before, tensors):
        made.append(quantize(after, w, amax if after == "nvfp4" else None))
        change.add(w, dequantize(after, made[-1], w.shape, check=False))
    columns = zip(*made, strict=True)
    return tuple(torch.cat(parts) if parts[0].dim() else parts[0] for parts in columns)


def _amax(fmt: str, tensors: tuple[Tensor, ...]) -> Tensor:
    return torch.stack([w.abs().amax() for w in _rows(fmt, tensors)]).amax()


def _rows(fmt: str, tensors: tuple[Tensor, ...]) -> Iterator[Tensor]:
    """Float32 values of a matrix in blocks of rows, whole blocks of FP8."""
    rows = len(tensors[0])
    columns = tensors[0].shape[1] * (2 if fmt in ("mxfp4", "nvfp4") else 1)
    step = max(_BLOCK_ELEMENTS // columns // FP8_BLOCK, 1) * FP8_BLOCK
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        block = [tensor[start:stop] if tensor.dim() else tensor for tensor in tensors]
        if fmt in _FP8:
            block[1] = tensors[1][start // FP8_BLOCK : -(-stop // FP8_BLOCK)]
        yield dequantize(fmt, block, (stop - start, columns), check=False)
