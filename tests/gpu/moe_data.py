"""Random experts, routings and references for the cases of the experts' kernels.

Weights are drawn in the packed order, in which any code is legal; references unpack and decode one
expert at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from harness import DEVICE

from dsv4c.codegen.kernels import _moe
from dsv4c.codegen.packing import packing
from dsv4c.ir.weight_codecs import dequantize
from dsv4c.ir.weight_formats import weight_format

Tensors = list[torch.Tensor]
CODES = {"nvfp4": 1024, "mxfp4": 1024, "fp8_128": 2048, "bf16": 2048}


@dataclass(frozen=True)
class Model:
    """Dims of a model's experts."""

    experts: int
    top_k: int
    hidden: int
    width: int


MODELS = {
    "flash": Model(256, 6, 4096, 2048),
    "pro": Model(384, 6, 7168, 3072),
    "tiny": Model(8, 2, 256, 128),
    # Pro with few experts, for formats in which all of them take much memory.
    "few": Model(16, 6, 7168, 3072),
}


@dataclass(frozen=True)
class Matrices:
    """Packed weights of one kind of expert.

    Args:
        form: weight format.
        rows: of one matrix.
        columns: of it.
        gate_up: two matrices of these dims are packed as one.
        lead: number of experts, or none for the shared one.
    """

    form: str
    rows: int
    columns: int
    gate_up: bool
    lead: tuple[int, ...] = ()

    @property
    def parts(self) -> int:
        """Components."""
        return len(_moe.parts(self.form))

    @property
    def count(self) -> int:
        return 2 if self.gate_up else 1

    @property
    def bytes(self) -> int:
        """Of one expert."""
        if self.form == "none":
            return 0
        spec = weight_format(self.form)
        return self.count * spec.nbytes((self.rows, self.columns))

    def draw(self, make: torch.Generator, rms: float, odd: bool = False) -> Tensors:
        """Components whose products with 1 have about this root mean square over all columns."""
        if self.form == "none":
            return []
        units = (*self.lead, self.count * self.rows // 32, self.columns // 64)
        unit = rms / math.sqrt(self.columns)
        if self.form == "bf16":
            values = torch.empty(*units, CODES["bf16"], dtype=torch.bfloat16, device=DEVICE)
            return [values.normal_(0, unit, generator=make)]
        codes = _bytes(make, 0, 256, (*units, CODES[self.form]))
        if self.form == "nvfp4":
            low, high = (0, 0x7F) if odd else (0x28, 0x44)
            words = _bytes(make, low, high, (*units, 128)).view(torch.int32)
            scale = ((words << 4) | ((words >> 28) & 15)).view(torch.uint8)
            number = (*self.lead, 2) if self.gate_up else self.lead
            scale_2 = torch.rand(number, generator=make, device=DEVICE) * 0.5 + 0.75
            return [codes, scale, scale_2 * unit / 3.0]
        middle = 127 + round(math.log2(unit / 3.0))
        if self.form == "mxfp4":
            low, high = (0, 200) if odd else (middle - 1, middle + 2)
            return [codes, _bytes(make, low, high, (*units, 64))]
        codes = torch.where((codes & 127) == 127, codes - 1, codes)
        middle = 127 + round(math.log2(unit / 120.0))
        low, high = (middle - 40, middle + 1) if odd else (middle - 1, middle + 2)
        blocks = (*self.lead, self.count * self.rows // 128, self.columns // 128)
        natural = _bytes(make, low, high, blocks)
        pack = packing(_moe.packing(self.form, self.gate_up)).layouts[-1].pack
        if self.lead:
            return [codes, torch.stack([pack(one) for one in natural])]
        return [codes, pack(natural)]

    def dense(self, parts: Sequence[torch.Tensor], expert: int | None) -> Tensors:
        """Exact values in float64 of one expert's matrices, [rows, columns] each."""
        spec, chosen = weight_format(self.form), packing(_moe.packing(self.form, self.gate_up))
        shapes = spec.component_shapes((self.rows, self.columns))
        found: list[list[torch.Tensor]] = [[] for _ in range(self.count)]
        for name, shape, part in zip(spec.component_names, shapes, parts, strict=True):
            one = part if expert is None else part[expert]
            # As `Packing.unpack`, but on the device; all dims are whole units.
            for layout in chosen.layouts:
                one = layout.unpack(one) if layout.changes(self.form, name) else one
            join, wanted = chosen.join, [shape] * self.count
            each = join.unpack(self.form, name, one, wanted) if join else (one,)
            for i, tensor in enumerate(each):
                found[i].append(tensor)
        dims = (self.rows, self.columns)
        return [dequantize(self.form, tuple(one), dims).double() for one in found]


def _bytes(make: torch.Generator, low: int, high: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=make, device=DEVICE, dtype=torch.uint8)


def choose_experts(
    make: torch.Generator, tokens: int, model: Model, how: str = "even"
) -> torch.Tensor:
    """Experts i64 [T, k], different in a row.

    Args:
        make: of random numbers.
        tokens: T.
        model: its dims.
        how: `even`; `one`: every token the same; `skewed`: few experts get most.
    """
    draw = torch.rand(tokens, model.experts, generator=make, device=DEVICE)
    if how == "one":
        draw = draw[:1].expand(tokens, -1)
    if how == "skewed":
        draw = draw.log() * torch.arange(1, model.experts + 1, device=DEVICE) ** 1.1
    return draw.topk(model.top_k, 1).indices


def group(experts: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Order i32 [T, k] and offsets i32 [count + 1], as the op `group_tokens` gives them."""
    flat = experts.flatten()
    order = flat.argsort(stable=True).int().view(experts.shape)
    offsets = torch.zeros(count + 1, dtype=torch.int32, device=experts.device)
    offsets[1:] = flat.bincount(minlength=count).cumsum(0)
    return order, offsets


def touched(order: torch.Tensor, offsets: torch.Tensor) -> list[tuple[int, torch.Tensor]]:
    """Experts that have pairs, with the pairs' numbers."""
    bounds = offsets.tolist()
    flat = order.flatten().long()
    return [
        (e, flat[bounds[e] : bounds[e + 1]])
        for e in range(len(bounds) - 1)
        if bounds[e + 1] > bounds[e]
    ]
