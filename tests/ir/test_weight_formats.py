"""Weight formats: worked example, every scale byte, declarations, refusals."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from dsv4c.errors import DsvError
from dsv4c.ir import formats
from dsv4c.ir.weight_codecs import dequantize, quantize
from dsv4c.ir.weight_formats import FORMATS, weight_format

# The worked example of the format specification: 16 values of a tensor whose amax is 5.2.
EXAMPLE = torch.tensor(
    [1.3, -0.9, 0.05, 0.02, -0.3, 0.54, -0.11, 0.76, 0, 0.33, -1.2, 0.16, 0.44, -0.65, 0.21, -0.05]
)
QUANTISED = ("fp8_128", "fp8_128_f32", "mxfp4", "nvfp4")


def unhex(text: str) -> list[int]:
    return list(bytes.fromhex(text))


def every_code_and(scales: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
    """Packed [scales, 8] with all 16 codes in each row, and their float64 values."""
    codes = torch.arange(16).to(torch.uint8).repeat(len(scales), 1)
    values = codes.numpy().view(ml_dtypes.float4_e2m1fn).astype(np.float64)
    return formats.pack_nibbles(codes), values


def test_worked_example_nvfp4() -> None:
    packed, scale, scale_2 = quantize("nvfp4", EXAMPLE[None], amax=torch.tensor(5.2))
    assert scale_2.item() == pytest.approx(0.00193452, rel=1e-5)
    assert scale.tolist() == [[0x6E]]
    assert packed[0].tolist() == unhex("E7 00 4B 69 30 1F D4 82")
    values = dequantize("nvfp4", (packed, scale, scale_2), (1, 16))[0]
    expected = [1.3, -13 / 15, 0, 0, -0.325, 13 / 30, -13 / 120, 13 / 15]
    expected += [0, 0.325, -1.3, 13 / 120, 13 / 30, -0.65, 13 / 60, 0]
    assert values.tolist() == pytest.approx(expected, rel=1e-6)
    assert bool(torch.signbit(values[-1]))


def test_worked_example_mxfp4() -> None:
    packed, scale = quantize("mxfp4", torch.cat([EXAMPLE, EXAMPLE.roll(3)])[None])
    assert scale.tolist() == [[125]]
    assert packed[0, :8].tolist() == unhex("E7 00 4A 59 30 1E D4 82")
    expected = [1.5, -1, 0, 0, -0.25, 0.5, -0.125, 0.75, 0, 0.375, -1, 0.125, 0.5, -0.75, 0.25, 0]
    assert dequantize("mxfp4", (packed, scale), (1, 32))[0, :16].tolist() == expected


def test_worked_example_fp8() -> None:
    weight, scale = quantize("fp8_128", EXAMPLE[None])
    assert scale.tolist() == [[119]]
    assert weight[0, :6].tolist() == unhex("7A F6 55 4A EA 71")
    values = dequantize("fp8_128", (weight, scale), (1, 16))[0, :6].tolist()
    assert values == [1.25, -0.875, 0.05078125, 0.01953125, -0.3125, 0.5625]


def test_nvfp4_decodes_every_scale_and_code() -> None:
    scales = torch.tensor([b for b in range(256) if b & 0x7F != 0x7F], dtype=torch.uint8)
    packed, values = every_code_and(scales)
    block = scales.numpy().view(ml_dtypes.float8_e4m3fn).astype(np.float64)[:, None]
    for scale_2 in (1.0, 2.0**-8, 0.00193452, 3.3e-39, 1e30):
        two = torch.tensor(scale_2)
        parts = (packed, scales[:, None], two)
        # Negative scales, which are refused when checked, decode too.
        out = dequantize("nvfp4", parts, (len(scales), 16), check=False)
        exact = (values * block * two.double().item()).astype(np.float32)
        assert np.array_equal(out.numpy().view(np.int32), exact.view(np.int32))


def test_fp8_decodes_every_byte_under_every_scale() -> None:
    codes = torch.tensor([b for b in range(256) if b & 0x7F != 0x7F], dtype=torch.uint8)
    values = codes.numpy().view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    for byte in range(255):
        scale = torch.tensor([[byte, byte]], dtype=torch.uint8)
        out = dequantize("fp8_128", (codes[None], scale), (1, len(codes)), check=False)
        with np.errstate(over="ignore"):
            exact = (values * 2.0 ** (byte - 127)).astype(np.float32)
        assert np.array_equal(out[0].numpy().view(np.int32), exact.view(np.int32))


def test_fp8_decodes_every_byte_under_float32_scales() -> None:
    codes = torch.tensor([b for b in range(256) if b & 0x7F != 0x7F], dtype=torch.uint8)
    values = codes.numpy().view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    factors = torch.randn(64, generator=torch.Generator().manual_seed(0)).abs() * 2.0**-9
    for factor in (0.0, 1.0, 0.00193452, 1e-44, 2.0**-126, 7.5e35, *factors.tolist()):
        scale = torch.tensor([[factor, factor]])
        out = dequantize("fp8_128_f32", (codes[None], scale), (1, len(codes)))
        exact = (values * scale[0, 0].double().item()).astype(np.float32)
        assert np.array_equal(out[0].numpy().view(np.int32), exact.view(np.int32))


@pytest.mark.parametrize("fmt", QUANTISED)
@pytest.mark.parametrize("shape", [(128, 256), (200, 320), (3, 130, 64)])
def test_quantised_weights_are_near_and_stable(fmt: str, shape: tuple[int, ...]) -> None:
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.02
    components = quantize(fmt, w)
    spec = weight_format(fmt)
    assert tuple(tuple(c.shape) for c in components) == spec.component_shapes(shape)
    assert sum(c.nbytes for c in components) == spec.nbytes(shape)
    back = dequantize(fmt, components, shape)
    error = float((back - w).norm() / w.norm())
    assert error < {"mxfp4": 0.15, "nvfp4": 0.11}.get(fmt, 0.03)
    slope = float((back * w).sum() / (w * w).sum())
    assert slope == pytest.approx(1.0, abs=0.01)
    again = dequantize(fmt, quantize(fmt, back), shape)
    if fmt in ("fp8_128", "mxfp4"):  # other scales follow the amax, which is itself rounded
        assert torch.equal(again, back)


def test_stacked_experts_are_independent() -> None:
    w = torch.randn(4, 64, 32, generator=torch.Generator().manual_seed(2))
    for fmt in QUANTISED:
        stacked = quantize(fmt, w)
        for e in range(4):
            alone = quantize(fmt, w[e])
            assert all(torch.equal(s[e], a) for s, a in zip(stacked, alone, strict=True))


def test_nvfp4_shares_an_amax() -> None:
    w = torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(3))
    w[1] *= 10
    amax = w.abs().amax().expand(2)
    components = quantize("nvfp4", w, amax=amax)
    assert components[2].tolist() == [float(amax[0] / 2688)] * 2
    back = dequantize("nvfp4", components, (2, 64, 32))
    assert float((back[0] - w[0]).norm() / w[0].norm()) < 0.11


@pytest.mark.parametrize("fmt", QUANTISED)
def test_zero_blocks_stay_zero(fmt: str) -> None:
    w = torch.zeros(256, 256)
    assert float(dequantize(fmt, quantize(fmt, w), (256, 256)).abs().max()) == 0.0
    w[0, 0] = 1.0
    back = dequantize(fmt, quantize(fmt, w), (256, 256))
    assert back[0, 0].item() == pytest.approx(1.0, rel=1e-7)
    assert float(back.sum()) == back[0, 0].item()


def test_float32_block_scales() -> None:
    w = torch.randn(256, 130, generator=torch.Generator().manual_seed(1))
    weight, scale = quantize("fp8_128_f32", w)
    assert scale.dtype == torch.float32
    assert scale[1, 0] == w[128:, :128].abs().amax() / 448
    assert int((weight & 0x7F).max()) == 0x7E
    exact = dequantize("fp8_128_f32", (weight, scale * 4), (256, 130))
    assert torch.equal(exact, dequantize("fp8_128_f32", (weight, scale), (256, 130)) * 4)


def test_plain_formats() -> None:
    w = torch.randn(3, 5)
    assert torch.equal(dequantize("f32", quantize("f32", w), (3, 5)), w)
    assert torch.equal(dequantize("bf16", quantize("bf16", w), (3, 5)), w.bfloat16().float())
    assert FORMATS["i64"].nbytes((3, 5)) == 120


def test_other_refusals() -> None:
    with pytest.raises(DsvError, match=r"unknown weight format[\s\S]*int4"):
        weight_format("int4")
    with pytest.raises(DsvError, match="cannot be mxfp4"):
        FORMATS["mxfp4"].component_shapes((4, 40))
    with pytest.raises(DsvError, match="DSV213"):
        quantize("nvfp4", torch.full((16, 16), torch.nan))
    with pytest.raises(DsvError, match="DSV901"):
        dequantize("mxfp4", quantize("mxfp4", torch.zeros(4, 64)), (4, 32))
