"""Scales and values outside the contract of their format are refused; the largest allowed pass."""

from __future__ import annotations

import pytest
import torch

from dsv4c.errors import DsvError
from dsv4c.ir.weight_checks import check_component
from dsv4c.ir.weight_codecs import dequantize, quantize
from dsv4c.ir.weight_formats import FORMATS

BAD: list[tuple[str, int, float, str]] = [
    ("fp8_128", 1, 255, "not finite"),
    ("fp8_128", 1, 247, "at most 246"),
    ("fp8_128_f32", 1, torch.nan, "not finite"),
    ("fp8_128_f32", 1, -torch.inf, "not finite"),
    ("fp8_128_f32", 1, -1e-30, "negative"),
    ("fp8_128_f32", 1, 7.6e35, "too large"),
    ("mxfp4", 1, 255, "not finite"),
    ("mxfp4", 1, 253, "at most 252"),
    ("nvfp4", 1, 0x7F, "not finite"),
    ("nvfp4", 1, 0xFF, "not finite"),
    ("nvfp4", 1, 0x80, "negative"),
    ("nvfp4", 1, 0xB8, "negative"),
    ("nvfp4", 2, torch.nan, "not finite"),
    ("nvfp4", 2, torch.inf, "not finite"),
    ("nvfp4", 2, -1.0, "negative"),
    ("nvfp4", 2, 1.3e35, "too large"),
]


@pytest.mark.parametrize(("fmt", "index", "value", "text"), BAD)
def test_scales_outside_their_contract(fmt: str, index: int, value: float, text: str) -> None:
    components = list(quantize(fmt, torch.randn(128, 128)))
    components[index] = components[index].clone()
    components[index].view(-1)[0] = value
    with pytest.raises(DsvError, match="1 of") as error:
        dequantize(fmt, components, (128, 128))
    assert error.value.code == "DSV213"
    assert text in str(error.value)
    dequantize(fmt, components, (128, 128), check=False)


@pytest.mark.parametrize(
    ("fmt", "index", "value"),
    [
        ("fp8_128", 1, 246),
        ("fp8_128_f32", 1, 7.59e35),
        ("mxfp4", 1, 252),
        ("nvfp4", 1, 0x7E),
        ("nvfp4", 2, 1.26e35),
    ],
)
def test_the_largest_scales_do_not_overflow(fmt: str, index: int, value: float) -> None:
    components = list(quantize(fmt, torch.randn(128, 128)))
    components[index] = torch.full_like(components[index], value)
    assert bool(dequantize(fmt, components, (128, 128)).isfinite().all())


@pytest.mark.parametrize("fmt", ["fp8_128", "fp8_128_f32"])
@pytest.mark.parametrize("byte", [0x7F, 0xFF])
def test_nan_codes(fmt: str, byte: int) -> None:
    weight = torch.tensor([[1, byte]], dtype=torch.uint8)
    with pytest.raises(DsvError, match=r"values that are not finite[\s\S]*file, tensor t"):
        check_component(fmt, "weight", weight, "file, tensor t")


@pytest.mark.parametrize("fmt", ["bf16", "f32"])
def test_plain_values(fmt: str) -> None:
    tensor = torch.tensor([1.0, torch.inf], dtype=FORMATS[fmt].components[0].torch_dtype)
    with pytest.raises(DsvError, match="1 of 2"):
        check_component(fmt, "weight", tensor)
    check_component(fmt, "weight", -tensor[:1])


def test_what_has_no_bad_value() -> None:
    check_component("i64", "weight", torch.tensor([-1]))
    every = torch.arange(256).to(torch.uint8)
    for fmt in ("mxfp4", "nvfp4"):
        check_component(fmt, "weight", every)
