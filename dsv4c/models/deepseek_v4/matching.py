"""How the tensors of a checkpoint are matched with the weights of the model; see `names`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Literal

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
from dsv4c.models.deepseek_v4.ledger import (
    Ledger,
    Problem,
    TensorHeader,
    TensorSlice,
    WeightSource,
)

IGNORED_MTP = "multi-token prediction is not built"
IGNORED_INPUT_SCALE = "activations are not quantised"
IGNORED_HASH_BIAS = "a hash layer routes by its table"

_PLAIN_DTYPES = {"F32": "f32", "BF16": "bf16", "I64": "i64"}


class _Bad(Exception):
    """A weight cannot be made; its problems are listed already."""


class Matcher:
    """One model and the headers of one checkpoint."""

    def __init__(self, config: ModelConfig, tensors: Mapping[str, TensorHeader]) -> None:
        self.wanted = logical_weights(config)
        self.tensors = tensors
        self.keys = {name: parse_name(name) for name in tensors}
        self.groups: dict[tuple[str, int | None], dict[str, str]] = {}
        self.ignored: dict[str, str] = {}
        self.problems: list[Problem] = []
        hash_layers = [i for i, layer in enumerate(config.layers) if layer.hash_routing]
        self.hash_biases = {f"layers.{i}.ffn.gate.bias" for i in hash_layers}
        files = sorted({header.file for header in tensors.values()})
        self.files = " to ".join(dict.fromkeys(files[:1] + files[-1:]))

    def run(self) -> Ledger:
        """Match every tensor with every weight."""
        for name, key in self.keys.items():
            self._file(name, key)
        weights: dict[str, WeightSource] = {}
        broken: set[str] = set()
        for name, weight in self.wanted.items():
            try:
                weights[name] = self._source(name, weight)
            except _Bad:
                broken |= {name, _fused(name)}
        used = {part.name for w in weights.values() for _, parts in w.components for part in parts}
        used |= self.ignored.keys() | {problem.tensor for problem in self.problems}
        for name in self.tensors:
            if name not in used and self.keys[name].weight not in broken:
                self._add("unused", name, partial(self._extra, name))
        return Ledger(weights, self.ignored, tuple(self.problems))

    def _add(
        self,
        kind: Literal["missing", "unused", "wrong"],
        tensor: str,
        error: Callable[[], DsvError],
    ) -> None:
        self.problems.append(Problem(kind, tensor, error))

    def _file(self, name: str, key: TensorKey) -> None:
        """Ignore a tensor, or put it with the others of its weight."""
        if name.removeprefix("model.").startswith("mtp."):
            self.ignored[name] = IGNORED_MTP
        elif key.weight in self.hash_biases:
            self.ignored[name] = IGNORED_HASH_BIAS
        else:
            group = self.groups.setdefault((key.weight, key.expert), {})
            if key.part not in group:
                group[key.part] = name
                return
            what, one = "two tensors are the same part of a weight", f"one tensor for {key.weight}"
            self._wrong(name, what, one, f"{group[key.part]} and {name}")

    def _source(self, name: str, weight: LogicalWeight) -> WeightSource:
        if weight.role != "expert":
            return self._whole(name, weight, self.groups.get((name, None)), weight.bare)
        fused = self.groups.get((_fused(name), None))
        if fused is None:
            return self._experts(name, weight)
        share = {"w1": 0, "w3": 1}.get(name.rsplit(".", 1)[1])
        return self._whole(name, weight, fused, False, share)

    def _whole(
        self,
        name: str,
        weight: LogicalWeight,
        group: Mapping[str, str] | None,
        bare: bool,
        share: int | None = None,
    ) -> WeightSource:
        """A weight whose components are one tensor each, or one half (`share`) of its rows."""
        if group is None or ("" if bare else "weight") not in group:
            raise self._missing(name, weight, 0 if weight.role == "expert" else None)
        parts = {"weight": group[""]} if bare else group
        fmt = self._format(name, weight, parts)
        slices: list[TensorSlice] = []
        shapes = self._shapes(fmt, parts["weight"], weight.shape)
        for tensor, shape in zip(self._components(fmt, parts), shapes, strict=True):
            rows, stored = None, shape
            if share is not None and len(shape) == len(weight.shape):
                rows = (share * shape[-2], (share + 1) * shape[-2])
                stored = (*shape[:-2], 2 * shape[-2], shape[-1])
            self._require_shape(tensor, stored)
            slices.append(TensorSlice(tensor, rows))
        names = weight_format(fmt).component_names
        components = tuple((n, (s,)) for n, s in zip(names, slices, strict=True))
        return WeightSource(fmt, weight.shape, components)

    def _experts(self, name: str, weight: LogicalWeight) -> WeightSource:
        """A stacked weight whose components are one tensor per expert."""
        formats: dict[str, str] = {}
        stacks: list[list[TensorSlice]] = []
        before = len(self.problems)
        # config.json may claim any number: beyond that of the tensors, one is missing for certain.
        for expert in range(min(weight.shape[0], len(self.tensors) + 1)):
            try:
                fmt, tensors = self._expert(name, weight, expert)
            except _Bad:
                continue
            formats.setdefault(fmt, tensors[0])
            if len(formats) > 1:
                found = ", ".join(f"{fmt} ({tensor})" for fmt, tensor in formats.items())
                what = "the experts of a layer have different formats"
                one = "one format for all experts of a projection"
                raise self._wrong(tensors[0], what, one, found)
            stacks.append([TensorSlice(tensor) for tensor in tensors])
        if len(self.problems) > before:
            raise _Bad
        (fmt,) = formats
        names = weight_format(fmt).component_names
        columns = zip(*stacks, strict=True)
        return WeightSource(fmt, weight.shape, tuple(zip(names, columns, strict=True)))

    def _expert(self, name: str, weight: LogicalWeight, expert: int) -> tuple[str, list[str]]:
        """Format and tensors of one expert."""
        parts = self.groups.get((name, expert))
        if parts is None or "weight" not in parts:
            raise self._missing(name, weight, expert)
        fmt = self._format(name, weight, parts)
        tensors = self._components(fmt, parts)
        shapes = self._shapes(fmt, tensors[0], weight.shape[1:])
        for tensor, shape in zip(tensors, shapes, strict=True):
            self._require_shape(tensor, shape)
        return fmt, tensors

    def _format(self, name: str, weight: LogicalWeight, parts: Mapping[str, str]) -> str:
        """Format of a weight by the dtypes of its parts."""
        tensor = parts["weight"]
        dtype = self.tensors[tensor].dtype
        scales = set(parts) & {"scale", "scale_2"}
        if dtype == "F8_E4M3":
            wide = "scale" in parts and self.tensors[parts["scale"]].dtype == "F32"
            fmt = "fp8_128_f32" if wide else "fp8_128"
        elif dtype in ("I8", "U8"):
            fmt = self._four_bits(parts)
        else:
            fmt = _PLAIN_DTYPES.get(dtype, dtype)
        if fmt == "bf16" and weight.role == "f32":
            fmt = "f32"  # widened when read, which is exact
        if fmt not in weight.formats:
            what = "a tensor has a dtype that its weight cannot have"
            raise self._wrong(tensor, what, f"a format of {', '.join(weight.formats)}", dtype)
        needed = set(weight_format(fmt).component_names) - {"weight"}
        if needed - scales:
            part = min(needed - scales)
            raise self._missing(name, weight, self.keys[tensor].expert, part, fmt)
        return fmt

    def _four_bits(self, parts: Mapping[str, str]) -> str:
        """The format of packed codes: ModelOpt stores them as U8, DeepSeek as I8."""
        if "scale_2" in parts:
            return "nvfp4"
        codes = self.tensors[parts["weight"]].dtype
        scale = self.tensors[parts["scale"]].dtype if "scale" in parts else ""
        if scale == "F32":
            what, expected = "packed codes have a scale of another format", "a scale of 8 bits"
            raise self._wrong(parts["weight"], what, expected, f"{parts['scale']}, {scale}")
        return "nvfp4" if codes == "U8" and scale != "F8_E8M0" else "mxfp4"

    def _shapes(self, fmt: str, tensor: str, shape: Shape) -> tuple[Shape, ...]:
        """Shapes of the components of a weight."""
        spec = weight_format(fmt)
        if shape and shape[-1] % spec.block:
            what = f"config.json has a size that a {fmt} weight cannot have"
            expected = f"rows that are a multiple of {spec.block} long"
            raise self._wrong(tensor, what, expected, f"shape {list(shape)}")
        return spec.component_shapes(shape)

    def _components(self, fmt: str, parts: Mapping[str, str]) -> list[str]:
        """Tensors of a weight in the order of its format, with their dtypes checked."""
        tensors = [parts[name] for name in weight_format(fmt).component_names]
        for tensor, dtypes in zip(tensors, STORED_DTYPES[fmt], strict=True):
            found = self.tensors[tensor].dtype
            if found not in dtypes and not (fmt == "f32" and found == "BF16"):
                what = f"a tensor of a {fmt} weight has the wrong dtype"
                raise self._wrong(tensor, what, " or ".join(dtypes), found)
        if fmt == "nvfp4" and "input_scale" in parts:
            self.ignored[parts["input_scale"]] = IGNORED_INPUT_SCALE
        return tensors

    def _require_shape(self, tensor: str, expected: Shape) -> None:
        found = tuple(self.tensors[tensor].shape)
        if found != expected:
            what = "a tensor has a shape that contradicts config.json"
            hint = "config.json and the checkpoint files must be of one model"
            raise self._wrong(tensor, what, str(list(expected)), str(list(found)), hint)

    def _wrong(self, tensor: str, what: str, expected: str, found: str, hint: str = "") -> _Bad:
        where = self._where(tensor)
        error = partial(
            DsvError, "DSV212", what, where=where, expected=expected, found=found, hint=hint
        )
        self._add("wrong", tensor, error)
        return _Bad()

    def _missing(
        self,
        name: str,
        weight: LogicalWeight,
        expert: int | None = None,
        part: str = "weight",
        fmt: str = "",
    ) -> _Bad:
        tensor = official_name(name, weight, fmt or weight.formats[0], part, expert)
        expected = f"a tensor for the {part} of {name}, shape {list(weight.shape)}"
        self._add("missing", tensor, partial(self._missing_error, tensor, name, expected))
        return _Bad()

    def _missing_error(self, tensor: str, name: str, expected: str) -> DsvError:
        names = [n for n in self.tensors if n not in self.ignored]
        unknown = [n for n in names if self._unknown(self.keys[n], name)]
        return DsvError(
            "DSV212",
            "a tensor is missing from the checkpoint",
            where=f"{self.files}, tensor {tensor}" if self.files else f"tensor {tensor}",
            expected=expected,
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
            hint=_did_you_mean(self.keys[name].weight, self.wanted),
        )

    def _where(self, tensor: str) -> str:
        file = self.tensors[tensor].file
        return f"{file}, tensor {tensor}" if file else f"tensor {tensor}"


def _fused(name: str) -> str:
    """Name of the fused tensor with a routed-expert projection; of other weights, no name at all."""
    parent, _, leaf = name.rpartition(".")
    if not parent.endswith(".ffn.experts"):
        return ""
    return f"{parent}.{FUSED_DOWN if leaf == 'w2' else FUSED_GATE_UP}"


def _did_you_mean(name: str, candidates: Collection[str]) -> str:
    close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.55)
    return f"did you mean {close[0]}?" if close else ""
