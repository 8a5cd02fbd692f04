"""Packings are the same bits on a GPU as on a CPU, and so are synthetic weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dsv4c.checkpoint.random_weights import Draw, component
from dsv4c.codegen.packing import JOINS, LAYOUTS, packing
from dsv4c.ir.weight_formats import weight_format

pytestmark = pytest.mark.gpu


def random(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    if dtype == torch.uint8:
        return torch.randint(0, 256, shape, dtype=dtype, generator=draw)
    return torch.randn(shape, generator=draw).to(dtype)


@pytest.mark.parametrize("fmt", ["bf16", "fp8_128", "mxfp4", "nvfp4"])
@pytest.mark.parametrize(
    "name", [*LAYOUTS, *JOINS, *(f"{join}+{layout}" for join in JOINS for layout in LAYOUTS)]
)
@pytest.mark.parametrize("rows", [(128, 128), (200, 72)])
def test_a_packing_is_the_same_on_a_gpu(fmt: str, name: str, rows: tuple[int, ...]) -> None:
    chosen, spec = packing(name), weight_format(fmt)
    rows = rows if name.split("+")[0] in JOINS else rows[:1]
    shapes = [spec.component_shapes((count, 192)) for count in rows]
    for part, *dims in zip(spec.components, *shapes, strict=True):
        tensors = [random(one, part.torch_dtype, i) for i, one in enumerate(dims)]
        packed = chosen.pack(fmt, part.name, tensors)
        there = chosen.pack(fmt, part.name, [tensor.cuda() for tensor in tensors])
        assert torch.equal(there.cpu(), packed)
        back = chosen.unpack(fmt, part.name, there, dims)
        assert all(torch.equal(a.cpu(), b) for a, b in zip(back, tensors, strict=True))


@pytest.mark.parametrize(
    ("fmt", "part"),
    [
        *(("bf16", "weight"), ("f32", "weight"), ("fp8_128", "weight"), ("fp8_128", "scale")),
        *((fmt, part) for fmt in ("mxfp4", "nvfp4") for part in ("weight", "scale")),
        ("nvfp4", "scale_2"),
    ],
)
def test_random_weights_are_the_same_on_a_gpu(fmt: str, part: str) -> None:
    here, there = (
        component(Draw(3, "layers.1.wq", device), fmt, part, 4096, 1000, 77_777)
        for device in ("cpu", "cuda")
    )
    assert torch.equal(there.cpu(), here)
