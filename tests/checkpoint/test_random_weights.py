"""Random components: the same bits in any range, statistics as declared."""

from __future__ import annotations

from math import prod

import pytest
import torch

from dsv4c.checkpoint.random_weights import Draw, component, normal
from dsv4c.ir.weight_checks import check_component
from dsv4c.ir.weight_codecs import dequantize
from dsv4c.ir.weight_formats import weight_format

FORMATS = ("bf16", "f32", "fp8_128", "mxfp4", "nvfp4")
ROWS, COLUMNS = 512, 1024


def components(fmt: str, draw: Draw) -> list[torch.Tensor]:
    spec = weight_format(fmt)
    shapes = spec.component_shapes((ROWS, COLUMNS))
    parts = zip(spec.component_names, shapes, strict=True)
    return [component(draw, fmt, n, COLUMNS, 0, prod(s)).view(s) for n, s in parts]


@pytest.mark.parametrize("fmt", FORMATS)
def test_values_are_near_normal_with_the_deviation_of_trained_weights(fmt: str) -> None:
    parts = components(fmt, Draw(0, "w"))
    for component_, tensor in zip(weight_format(fmt).components, parts, strict=True):
        assert tensor.dtype == component_.torch_dtype
        check_component(fmt, component_.name, tensor)
    w = dequantize(fmt, parts, (ROWS, COLUMNS)) * COLUMNS**0.5
    assert abs(float(w.mean())) < 0.01
    assert 0.9 < float(w.std()) < 1.1
    # Scales that differ from block to block make the tails heavier than a normal one's 3.
    assert 3.5 < float((w**4).mean() / w.var() ** 2) < 8
    assert abs(float((w[0] * w[1]).mean())) < 0.15
    assert float(torch.linalg.svdvals(w[:64]).amin()) > 10  # no row repeats


@pytest.mark.parametrize("fmt", FORMATS)
def test_any_range_has_the_bits_of_the_whole(fmt: str) -> None:
    draw = Draw(3, "layers.0.x")
    whole = components(fmt, draw)
    for name, tensor in zip(weight_format(fmt).component_names, whole, strict=True):
        flat = tensor.flatten()
        for first, count in ((0, 1), (5, 100), (33, 31), (len(flat) // 2, 7), (len(flat) - 1, 1)):
            if first + count <= len(flat):
                found = component(draw, fmt, name, COLUMNS, first, count)
                assert torch.equal(found, flat[first : first + count])


def test_scales_spread_over_blocks() -> None:
    codes, scales = components("fp8_128", Draw(0, "w"))
    assert scales.unique().numel() == 3
    largest = (codes & 0x7F).view(4, 128, 8, 128).amax((1, 3))
    assert 0x70 <= int(largest.min()) <= int(largest.max()) <= 0x7E  # the two binades below 448
    assert components("mxfp4", Draw(0, "w"))[1].unique().numel() >= 3
    assert components("nvfp4", Draw(0, "w"))[1].unique().numel() > 20


def test_seed_and_name_decide() -> None:
    def first(seed: int, name: str) -> torch.Tensor:
        return normal(Draw(seed, name), 100)

    assert torch.equal(first(0, "a"), first(0, "a"))
    assert not torch.equal(first(0, "a"), first(1, "a"))
    assert not torch.equal(first(0, "a"), first(0, "b"))


def test_indices_are_uniform() -> None:
    counts = torch.bincount(Draw(0, "w").indices(3, 1 << 20), minlength=1 << 16)
    assert len(counts) == 1 << 16
    assert abs(float(counts.double().var()) / 16 - 1) < 0.05  # Poisson: variance = mean


def test_matrices_that_share_scale_2() -> None:
    shared = Draw(0, "expert 3")
    first, second = (
        component(Draw(0, name), "nvfp4", "scale_2", COLUMNS, 0, 1, shared) for name in "ab"
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, component(Draw(0, "a"), "nvfp4", "scale_2", COLUMNS, 0, 1))
