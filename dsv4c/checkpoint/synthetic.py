"""A checkpoint of true width with random weights, which are made when they are read.

A tensor's bits follow from the seed, its name and the number that its layer has in the whole model,
so a checkpoint of some layers holds the same layers as one of others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from dsv4c.checkpoint.header import TensorInfo
from dsv4c.checkpoint.random_weights import Draw, component, normal
from dsv4c.checkpoint.reader import Checkpoint
from dsv4c.checkpoint.writer import header_bytes
from dsv4c.errors import DsvError
from dsv4c.ir.weight_formats import weight_format
from dsv4c.models.deepseek_v4.config import ModelConfig
from dsv4c.models.deepseek_v4.inventory import (
    Header,
    LogicalWeight,
    logical_weights,
    official_name,
    official_tensors,
)

EXPERTS = {"nvfp4": "nvfp4", "mxfp4": "mxfp4", "fp8": "fp8_128", "bf16": "bf16"}
ATTENTION = {"fp8": "fp8_128", "bf16": "bf16", "nvfp4": "nvfp4"}
# NVFP4 checkpoints keep this linear in BF16.
_NOT_NVFP4 = ".attn.wo_a"
_ROUTER_BIAS = 8.08


@dataclass(frozen=True, slots=True)
class _Tensor:
    """What a tensor is: a component of a weight, or of one expert of it."""

    name: str
    weight: LogicalWeight
    format: str
    part: str
    expert: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticCheckpoint(Checkpoint):
    """A checkpoint that makes its tensors when they are read; see `synthetic_weights`.

    Attributes:
        config: of the model.
        seed: of all tensors.
        device: where tensors are made.
        originals: number in the whole model of each layer.
        known: what each tensor is.
    """

    config: ModelConfig
    seed: int
    device: str
    originals: tuple[int, ...]
    known: Mapping[str, _Tensor] = field(repr=False)

    def read_range(
        self, name: str, first: int, count: int, memory: bytearray | None = None
    ) -> Tensor:
        """Elements first to first + count of a tensor in memory order, [count]."""
        one = self.known[name]
        draw = Draw(self.seed, self._place(one), self.device)
        if one.part == "input_scale":
            return torch.full((count,), 2.0**-7, device=self.device)
        if one.weight.role == "ids":
            return self._expert_ids(draw, one.weight, first, count)
        shape = one.weight.shape
        if len(shape) == 1:
            return self._vector(one.name, draw, shape[0])[first : first + count].to(_float(one))
        if one.name.endswith(".ape"):
            return 0.3 * normal(draw, prod(shape))[first : first + count]
        shared = Draw(self.seed, self._place(one, joint=True)) if one.part == "scale_2" else None
        return component(draw, one.format, one.part, shape[-1], first, count, shared)

    def _place(self, one: _Tensor, joint: bool = False) -> str:
        """The name in the whole model; `joint`: one for an expert's w1 and w3."""
        head, _, rest = one.name.partition(".")
        name = one.name
        if head == "layers":
            number, _, rest = rest.partition(".")
            name = f"layers.{self.originals[int(number)]}.{rest}"
        if joint:
            name = name.removesuffix(".w3").removesuffix(".w1")
        return f"{name}:{one.expert}"

    def _vector(self, name: str, draw: Draw, size: int) -> Tensor:
        """float32 [size] with values near those of trained models."""
        values = normal(draw, size)
        if name.endswith("norm"):
            return 1 + 0.1 * values
        if name.endswith(".gate.bias"):
            return _ROUTER_BIAS + 0.05 * values
        if name.endswith("_scale"):
            return 1 + 0.1 * values
        if name.endswith("_base") and size == self.config.hc_rows:
            # Each stream mostly keeps to itself.
            values = 0.5 * values
            n = self.config.hc_mult
            values[2 * n :] += 2 * torch.eye(n, device=self.device).flatten()
        return values

    def _expert_ids(self, draw: Draw, weight: LogicalWeight, first: int, count: int) -> Tensor:
        """int64 [count] of a table of experts per token, those of a token all different."""
        chosen, experts = weight.shape[1], self.config.n_routed_experts
        start, stop = first // chosen, -(-(first + count) // chosen)
        begin, step = draw.indices(2 * start, 2 * (stop - start)).to(torch.int64).view(-1, 2).T
        step = 1 + step % max(1, (experts - 1) // max(1, chosen - 1))
        order = torch.arange(chosen, device=self.device)
        ids = (begin[:, None] + order * step[:, None]) % experts
        return ids.flatten()[first - start * chosen :][:count]


def _float(one: _Tensor) -> torch.dtype:
    return torch.bfloat16 if one.format == "bf16" else torch.float32


def synthetic_weights(
    config: ModelConfig,
    seed: int = 0,
    experts: str = "nvfp4",
    attention: str = "fp8",
    *,
    originals: Sequence[int] | None = None,
    device: str | torch.device = "cpu",
) -> SyntheticCheckpoint:
    """A checkpoint in memory whose tensors are made when they are read.

    Matrices are near normal with deviation in^-0.5 and scales that differ from block to block, norms
    near 1, router biases near 8.08. Codes and scales have the same bits on every device.

    Args:
        config: of the model; MTP modules are left out.
        seed: another seed, another model.
        experts: format of routed experts, a key of `EXPERTS`.
        attention: format of the linears of attention, indexer and shared experts, of `ATTENTION`.
        originals: number in the whole model of each layer; 0, 1, ... by default.
        device: where tensors are made.

    Raises:
        DsvError: DSV101, an unknown format; DSV301, dims that do not fit it.
    """
    chosen = {
        "expert": _choose("experts", experts, EXPERTS),
        "linear": _choose("attention", attention, ATTENTION),
    }
    headers: dict[str, Header] = {}
    known: dict[str, _Tensor] = {}
    for name, weight in logical_weights(config).items():
        fmt = chosen.get(weight.role, weight.formats[0])
        if fmt == "nvfp4" and name.endswith(_NOT_NVFP4):
            fmt = "bf16"
        headers |= official_tensors(name, weight, fmt)
        for expert in range(weight.shape[0]) if weight.role == "expert" else (None,):
            for part in weight_format(fmt).component_names:
                tensor = official_name(name, weight, fmt, part, expert)
                known[tensor] = _Tensor(name, weight, fmt, part, expert)
            if fmt == "nvfp4" and weight.role == "expert":
                tensor = official_name(name, weight, fmt, "input_scale", expert)
                headers[tensor] = Header("F32", ())
                known[tensor] = _Tensor(name, weight, fmt, "input_scale", expert)
    infos = {
        name: TensorInfo(header.dtype, header.shape, "", 0, header_bytes(header))
        for name, header in headers.items()
    }
    return SyntheticCheckpoint(
        path=Path("synthetic"),
        tensors=MappingProxyType(infos),
        config=config,
        seed=seed,
        device=str(device),
        originals=tuple(originals or range(len(config.layers))),
        known=MappingProxyType(known),
    )


def _choose(option: str, value: str, formats: Mapping[str, str]) -> str:
    if value not in formats:
        known = ", ".join(formats)
        message = f"{option} has no such format"
        raise DsvError("DSV101", message, where=option, expected=known, found=value)
    return formats[value]
