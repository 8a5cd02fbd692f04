"""Packings: exact inverses on whole and ragged matrices, and the layouts that kernels expect."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from dsv4c.codegen.packing import JOINS, LAYOUTS, packing
from dsv4c.errors import DsvError
from dsv4c.ir.weight_formats import FORMATS, Shape, weight_format

NAMES = [
    *LAYOUTS,
    "scales_128x4+wgmma_64x64",
    *JOINS,
    *(f"{join}+{layout}" for join in JOINS for layout in LAYOUTS),
]
MATRICES = ["bf16", "f32", "fp8_128", "fp8_128_f32", "mxfp4", "nvfp4"]


def random(shape: Shape, dtype: torch.dtype, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    if dtype == torch.uint8:
        return torch.randint(0, 256, shape, dtype=dtype, generator=draw)
    return torch.randn(shape, generator=draw).to(dtype)


def cases(
    name: str, fmt: str, columns: int, rows: tuple[int, ...]
) -> Iterator[tuple[str, list[Tensor]]]:
    """Each component of some matrices, as many as the packing takes."""
    rows = rows if name.split("+")[0] in JOINS else rows[:1]
    spec = weight_format(fmt)
    shapes = [spec.component_shapes((count, columns)) for count in rows]
    for part, *found in zip(spec.components, *shapes, strict=True):
        yield part.name, [random(s, part.torch_dtype, i) for i, s in enumerate(found)]


@pytest.mark.parametrize("fmt", MATRICES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("columns", "rows"),
    [(256, (128, 128)), (96, (200, 72, 1)), (32, (7, 300)), (704, (64, 130, 9))],
)
def test_unpacking_is_the_exact_inverse(
    name: str, fmt: str, columns: int, rows: tuple[int, ...]
) -> None:
    chosen = packing(name)
    for part, tensors in cases(name, fmt, columns, rows):
        shapes = [tuple(tensor.shape) for tensor in tensors]
        packed = chosen.pack(fmt, part, tensors)
        assert tuple(packed.shape) == chosen.shape(fmt, part, shapes)
        assert packed.dtype == tensors[0].dtype
        assert packed.is_contiguous()
        back = chosen.unpack(fmt, part, packed, shapes)
        assert len(back) == len(tensors)
        assert all(torch.equal(*pair) for pair in zip(back, tensors, strict=True))


def test_scales_in_tiles_of_128x4() -> None:
    """The formula of tcgen05's scale factors, byte by byte."""
    scale = random((200, 6), torch.uint8, 0)
    packed = packing("scales_128x4").pack("nvfp4", "scale", [scale])
    assert packed.shape == (2, 2, 512)
    for row in range(256):
        for column in range(8):
            offset = (row % 32) * 16 + (row // 32 % 4) * 4 + column % 4
            inside = row < 200 and column < 6
            expected = int(scale[row, column]) if inside else 0
            assert int(packed[row // 128, column // 4, offset]) == expected


def test_codes_in_the_order_of_wgmma() -> None:
    """Nibbles i and i + 4 of a thread's word are the pair of A register i, a row and 8 further on."""
    weight = random((128, 64), torch.uint8, 0)
    packed = packing("wgmma_64x64").pack("mxfp4", "weight", [weight])
    assert packed.shape == (2, 2, 128, 16)
    for tile_row, tile_column, thread in ((0, 0, 0), (1, 0, 37), (0, 1, 127), (1, 1, 90)):
        warp, g, c = thread // 32, thread % 32 // 4, thread % 4
        for step in range(4):
            data = packed[tile_row, tile_column, thread, 4 * step : 4 * step + 4].tolist()
            word = int.from_bytes(bytes(data), "little")
            for register in range(4):
                for element in range(2):
                    row = 64 * tile_row + 16 * warp + 8 * (register % 2) + g
                    column = 64 * tile_column + 16 * step + 8 * (register // 2) + 2 * c + element
                    code = int(weight[row, column // 2]) >> 4 * (column % 2) & 15
                    assert word >> 4 * (register + 4 * element) & 15 == code


def test_gate_and_up_alternate_in_groups_of_eight() -> None:
    gate = torch.arange(24, dtype=torch.uint8)[:, None].expand(24, 16).contiguous()
    joined = packing("gate_up_8").pack("nvfp4", "weight", [gate, gate + 100])
    rows = joined[:, 0].tolist()
    assert rows[:16] == [*range(8), *range(100, 108)]
    assert rows[32:] == [*range(16, 24), *range(116, 124)]
    # The scale of 128 rows of each stands for the 256 rows that they become.
    scales = [torch.tensor([[1], [2]]), torch.tensor([[3], [4]])]
    assert packing("gate_up_8").pack("fp8_128", "scale", scales).tolist() == [[1], [3], [2], [4]]
    assert packing("gate_up_8").pack("nvfp4", "scale_2", [torch.tensor(1.0)] * 2).shape == (2,)


def test_projections_follow_one_another() -> None:
    parts = [random((3, 32), torch.bfloat16, 0), random((5, 32), torch.bfloat16, 1)]
    joined = packing("rows").pack("bf16", "weight", parts)
    assert torch.equal(joined[:3], parts[0])
    assert torch.equal(joined[3:], parts[1])
    with pytest.raises(DsvError, match="cannot be joined"):
        packing("rows").shape("bf16", "weight", [(3, 32), (3, 64)])


@pytest.mark.parametrize("name", ["", "tiles", "scales_128x4+rows", "rows+rows", "rows+tiles"])
def test_unknown_packings(name: str) -> None:
    with pytest.raises(DsvError, match="unknown packing") as caught:
        packing(name)
    assert (caught.value.code, caught.value.found) == ("DSV231", name)


def test_every_layout_is_about_a_component_of_its_formats() -> None:
    for layout in LAYOUTS.values():
        assert all(layout.part in FORMATS[fmt].component_names for fmt in layout.formats)
