"""Which checkpoint tensors make which weight: a strict ledger over the headers of a checkpoint.

Every tensor of the checkpoint is used, or listed as ignored with its reason; every weight of the
model has its tensors, of the right dtype and shape. Anything else is an error that names the tensor.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from dsv4c.errors import DsvError
from dsv4c.ir.weight_formats import Shape, weight_format
from dsv4c.models.deepseek_v4.aliases import FUSED_DOWN, FUSED_GATE_UP, TensorKey, parse_name
from dsv4c.models.deepseek_v4.config import ModelConfig
from dsv4c.models.deepseek_v4.inventory import (
    STORED_DTYPES,
    LogicalWeight,
    logical_weights,
    official_name,
)

_IGNORED_MTP = "multi-token prediction is not built"
_IGNORED_INPUT_SCALE = "activations are not quantised"
_IGNORED_HASH_BIAS = "a hash layer routes by its table"

_PLAIN_DTYPES = {"F32": "f32", "BF16": "bf16", "I64": "i64"}


class TensorHeader(Protocol):
    """What this module reads of a tensor."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> Shape: ...
    @property
    def file(self) -> str: ...


class HasTensors(Protocol):
    """A checkpoint, as far as its headers."""

    @property
    def tensors(self) -> Mapping[str, TensorHeader]: ...


@dataclass(frozen=True, slots=True)
class TensorSlice:
    """A checkpoint tensor, or the range `rows` of its second to last dim."""

    name: str
    rows: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class WeightSource:
    """Where a weight comes from.

    Attributes:
        format: a name of `dsv4c.ir.weight_formats.FORMATS`.
        shape: logical shape, experts stacked in front.
        components: for each component of the format its name and the tensors that make it: one,
            or one per expert.
    """

    format: str
    shape: Shape
    components: tuple[tuple[str, tuple[TensorSlice, ...]], ...]


@dataclass(frozen=True, slots=True)
class Ledger:
    """Every tensor of a checkpoint, accounted for.

    Attributes:
        weights: source of each logical weight, in the order of `logical_weights`.
        ignored: tensors that are not used -> why.
    """

    weights: dict[str, WeightSource]
    ignored: dict[str, str]


def resolve_weights(config: ModelConfig, checkpoint: HasTensors) -> dict[str, WeightSource]:
    """Source of each logical weight; see `read_ledger`, which also says what is ignored."""
    return read_ledger(config, checkpoint).weights


def read_ledger(config: ModelConfig, checkpoint: HasTensors) -> Ledger:
    """Match the tensors of a checkpoint with the weights of the model.

    Names are those of the official, the ModelOpt or the transformers scheme, in any mixture; the
    format of each weight is read off its tensors.

    Raises:
        DsvError: DSV212, a tensor is missing, extra, misnamed, or has another shape or dtype.
    """
    return _Matcher(config, checkpoint.tensors).run()


class _Matcher:
    def __init__(self, config: ModelConfig, tensors: Mapping[str, TensorHeader]) -> None:
        self.wanted = logical_weights(config)
        self.tensors = tensors
        self.groups: dict[tuple[str, int | None], dict[str, str]] = {}
        self.ignored: dict[str, str] = {}
        hash_layers = [i for i, layer in enumerate(config.layers) if layer.hash_routing]
        self.hash_biases = {f"layers.{i}.ffn.gate.bias" for i in hash_layers}

    def run(self) -> Ledger:
        for name in self.tensors:
            self._file(name, parse_name(name))
        weights = {name: self._source(name, weight) for name, weight in self.wanted.items()}
        used = {part.name for w in weights.values() for _, parts in w.components for part in parts}
        for name in self.tensors:
            if name not in used and name not in self.ignored:
                raise self._extra(name)
        return Ledger(weights, self.ignored)

    def _file(self, name: str, key: TensorKey) -> None:
        """Ignore a tensor, or put it with the others of its weight."""
        if name.removeprefix("model.").startswith("mtp."):
            self.ignored[name] = _IGNORED_MTP
        elif key.weight in self.hash_biases:
            self.ignored[name] = _IGNORED_HASH_BIAS
        else:
            group = self.groups.setdefault((key.weight, key.expert), {})
            if key.part in group:
                raise DsvError(
                    "DSV212",
                    "two tensors are the same part of a weight",
                    where=self._where(name),
                    expected=f"one tensor for {key.weight}",
                    found=f"{group[key.part]} and {name}",
                )
            group[key.part] = name

    def _source(self, name: str, weight: LogicalWeight) -> WeightSource:
        if weight.role != "expert":
            return self._whole(name, weight, self.groups.get((name, None)), weight.bare)
        parent, leaf = name.rsplit(".", 1)
        fused = f"{parent}.{FUSED_DOWN if leaf == 'w2' else FUSED_GATE_UP}"
        if (fused, None) not in self.groups:
            return self._experts(name, weight)
        share = {"w1": 0, "w3": 1}.get(leaf)
        return self._whole(name, weight, self.groups[fused, None], False, share)

    def _whole(
        self,
        name: str,
        weight: LogicalWeight,
        group: dict[str, str] | None,
        bare: bool,
        share: int | None = None,
    ) -> WeightSource:
        """A weight whose components are one tensor each, or one half (`share`) of its rows."""
        if group is None or ("" if bare else "weight") not in group:
            raise self._missing(name, weight, 0 if weight.role == "expert" else None)
        parts = {"weight": group[""]} if bare else group
        fmt = self._format(name, weight, parts)
        slices: list[TensorSlice] = []
        shapes = weight_format(fmt).component_shapes(weight.shape)
        for tensor, shape in zip(self._components(fmt, parts), shapes, strict=True):
            rows = None if share is None else (share * shape[-2], (share + 1) * shape[-2])
            stored = shape if share is None else (*shape[:-2], 2 * shape[-2], shape[-1])
            self._require_shape(tensor, stored)
            slices.append(TensorSlice(tensor, rows))
        names = weight_format(fmt).component_names
        components = tuple((n, (s,)) for n, s in zip(names, slices, strict=True))
        return WeightSource(fmt, weight.shape, components)

    def _experts(self, name: str, weight: LogicalWeight) -> WeightSource:
        """A stacked weight whose components are one tensor per expert."""
        formats: dict[str, str] = {}
        stacks: list[list[TensorSlice]] = []
        for expert in range(weight.shape[0]):
            parts = self.groups.get((name, expert))
            if parts is None or "weight" not in parts:
                raise self._missing(name, weight, expert)
            fmt = self._format(name, weight, parts)
            formats.setdefault(fmt, parts["weight"])
            if len(formats) > 1:
                raise DsvError(
                    "DSV212",
                    "the experts of a layer have different formats",
                    where=self._where(parts["weight"]),
                    expected="one format for all experts of a projection",
                    found=", ".join(f"{fmt} ({tensor})" for fmt, tensor in formats.items()),
                )
            tensors = self._components(fmt, parts)
            shapes = weight_format(fmt).component_shapes(weight.shape[1:])
            for tensor, shape in zip(tensors, shapes, strict=True):
                self._require_shape(tensor, shape)
            stacks.append([TensorSlice(tensor) for tensor in tensors])
        (fmt,) = formats
        names = weight_format(fmt).component_names
        columns = zip(*stacks, strict=True)
        return WeightSource(fmt, weight.shape, tuple(zip(names, columns, strict=True)))

    def _format(self, name: str, weight: LogicalWeight, parts: Mapping[str, str]) -> str:
        """Format of a weight by the dtypes of its parts."""
        tensor = parts["weight"]
        dtype = self.tensors[tensor].dtype
        scales = set(parts) & {"scale", "scale_2"}
        if dtype == "F8_E4M3":
            fmt = "fp8_128"
        elif dtype in ("I8", "U8"):
            fmt = "nvfp4" if "scale_2" in scales else "mxfp4"
        else:
            fmt = _PLAIN_DTYPES.get(dtype, dtype)
        if fmt == "bf16" and weight.role == "f32":
            fmt = "f32"  # widened when read, which is exact
        if fmt not in weight.formats:
            raise DsvError(
                "DSV212",
                "a tensor has a dtype that its weight cannot have",
                where=self._where(tensor),
                expected=f"a format of {', '.join(weight.formats)}",
                found=dtype,
            )
        needed = set(weight_format(fmt).component_names) - {"weight"}
        if needed - scales:
            part = min(needed - scales)
            raise self._missing(name, weight, parse_name(tensor).expert, part, fmt)
        return fmt

    def _components(self, fmt: str, parts: Mapping[str, str]) -> list[str]:
        """Tensors of a weight in the order of its format, with their dtypes checked."""
        tensors = [parts[name] for name in weight_format(fmt).component_names]
        for tensor, dtypes in zip(tensors, STORED_DTYPES[fmt], strict=True):
            found = self.tensors[tensor].dtype
            if found not in dtypes and not (fmt == "f32" and found == "BF16"):
                raise DsvError(
                    "DSV212",
                    f"a tensor of a {fmt} weight has the wrong dtype",
                    where=self._where(tensor),
                    expected=" or ".join(dtypes),
                    found=found,
                )
        if fmt == "nvfp4" and "input_scale" in parts:
            self.ignored[parts["input_scale"]] = _IGNORED_INPUT_SCALE
        return tensors

    def _require_shape(self, tensor: str, expected: Shape) -> None:
        found = tuple(self.tensors[tensor].shape)
        if found != expected:
            raise DsvError(
                "DSV212",
                "a tensor has a shape that contradicts config.json",
                where=self._where(tensor),
                expected=str(list(expected)),
                found=str(list(found)),
                hint="config.json and the checkpoint files must be of one model",
            )

    def _missing(
        self,
        name: str,
        weight: LogicalWeight,
        expert: int | None = None,
        part: str = "weight",
        fmt: str = "",
    ) -> DsvError:
        tensor = official_name(name, weight, fmt or weight.formats[0], part, expert)
        names = [n for n in self.tensors if n not in self.ignored]
        unknown = [n for n in names if self._unknown(parse_name(n), name)]
        return DsvError(
            "DSV212",
            "a tensor is missing from the checkpoint",
            where=f"tensor {tensor}",
            expected=f"a tensor for the {part} of {name}, shape {list(weight.shape)}",
            found="nothing",
            hint=_did_you_mean(tensor, unknown) or "fetch the checkpoint again",
        )

    def _unknown(self, key: TensorKey, missing: str) -> bool:
        """Whether a tensor may be the missing one under a wrong name."""
        return key.weight not in self.wanted or (key.weight == missing and not key.part)

    def _extra(self, name: str) -> DsvError:
        return DsvError(
            "DSV212",
            "the checkpoint has a tensor that the model does not use",
            where=self._where(name),
            expected="only tensors that config.json calls for",
            found=name,
            hint=_did_you_mean(parse_name(name).weight, self.wanted),
        )

    def _where(self, tensor: str) -> str:
        file = self.tensors[tensor].file
        return f"{file}, tensor {tensor}" if file else f"tensor {tensor}"


def _did_you_mean(name: str, candidates: Collection[str]) -> str:
    close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.55)
    return f"did you mean {close[0]}?" if close else ""
