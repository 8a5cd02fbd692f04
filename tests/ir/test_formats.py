"""Every code and every scale of the number formats, against ml_dtypes and exact arithmetic."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from dsv4c.errors import DsvError
from dsv4c.ir import formats

E4M3 = ml_dtypes.float8_e4m3fn
E8M0 = ml_dtypes.float8_e8m0fnu
E2M1 = ml_dtypes.float4_e2m1fn


def all_bytes() -> torch.Tensor:
    return torch.arange(256).to(torch.uint8)


def same_bits(a: torch.Tensor, b: np.ndarray) -> bool:
    """Equal bit for bit, any NaN equal to any NaN."""
    x, y = a.numpy(), b.astype(np.float32)
    return bool(
        np.array_equal(np.isnan(x), np.isnan(y))
        and np.array_equal(
            np.where(np.isnan(x), 0, x).view(np.int32), np.where(np.isnan(y), 0, y).view(np.int32)
        )
    )


def every_bf16() -> torch.Tensor:
    bits = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16)
    return bits.view(torch.bfloat16).to(torch.float32)


def around(values: torch.Tensor) -> torch.Tensor:
    """Each float32 value with both its neighbours, and the negatives."""
    inf = torch.tensor(torch.inf)
    near = torch.cat([values, torch.nextafter(values, inf), torch.nextafter(values, -inf)])
    return torch.cat([near, -near])


def test_e4m3_decodes_all_bytes() -> None:
    expected = all_bytes().numpy().view(E4M3).astype(np.float32)
    assert same_bits(formats.decode_e4m3(all_bytes()), expected)


def test_e4m3_encode_inverts_decode() -> None:
    codes = all_bytes()
    assert torch.equal(formats.encode_e4m3(formats.decode_e4m3(codes)), codes)


def e4m3_midpoints() -> torch.Tensor:
    values = formats.decode_e4m3(all_bytes()[:127])
    return (values[1:] + values[:-1]) / 2


@pytest.mark.parametrize("x", [every_bf16(), around(e4m3_midpoints())], ids=["bf16", "midpoints"])
def test_e4m3_encodes_like_ml_dtypes(x: torch.Tensor) -> None:
    x = x[~x.isnan()]
    expected = x.clamp(-448, 448).numpy().astype(E4M3).view(np.uint8)
    assert np.array_equal(formats.encode_e4m3(x).numpy(), expected)


def test_e4m3_saturates_and_keeps_nan() -> None:
    x = torch.tensor([1e30, -1e30, torch.inf, 464.0, 480.0, torch.nan])
    assert formats.encode_e4m3(x).tolist() == [0x7E, 0xFE, 0x7E, 0x7E, 0x7E, 0x7F]


def test_e2m1_decodes_all_codes() -> None:
    codes = all_bytes()[:16]
    assert same_bits(formats.decode_e2m1(codes), codes.numpy().view(E2M1).astype(np.float32))


def test_e2m1_encode_inverts_decode() -> None:
    codes = all_bytes()[:16]
    assert torch.equal(formats.encode_e2m1(formats.decode_e2m1(codes)), codes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_e2m1_encodes_like_ml_dtypes(dtype: torch.dtype) -> None:
    values = formats.decode_e2m1(all_bytes()[:8])
    x = torch.cat([every_bf16(), around((values[1:] + values[:-1]) / 2)])
    x = x[~x.isnan()]
    expected = x.clamp(-6, 6).numpy().astype(E2M1).view(np.uint8)
    assert np.array_equal(formats.encode_e2m1(x.to(dtype)).numpy(), expected)


def test_e2m1_ties_go_to_the_even_mantissa() -> None:
    x = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 7.0, torch.inf])
    rounded = formats.decode_e2m1(formats.encode_e2m1(x))
    assert rounded.tolist() == [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 6.0, 6.0]


def test_e8m0_decodes_all_bytes() -> None:
    decoded = formats.decode_e8m0(all_bytes())
    assert same_bits(decoded, all_bytes().numpy().view(E8M0).astype(np.float32))
    assert decoded[:255].double().log2().tolist() == [byte - 127 for byte in range(255)]


def test_e8m0_ceil_encodes_powers_and_their_neighbours() -> None:
    powers = formats.decode_e8m0(all_bytes()[1:255])
    above = torch.nextafter(powers, torch.tensor(torch.inf))
    below = torch.nextafter(powers, torch.tensor(0.0))[1:]
    assert torch.equal(formats.encode_e8m0_ceil(powers), all_bytes()[1:255])
    assert torch.equal(formats.encode_e8m0_ceil(above[:-1]), all_bytes()[2:255])
    assert torch.equal(formats.encode_e8m0_ceil(below), all_bytes()[2:255])


def test_nibbles_put_the_even_element_low() -> None:
    codes = all_bytes()[:16].reshape(2, 8)
    packed = formats.pack_nibbles(codes)
    assert packed[0].tolist() == [0x10, 0x32, 0x54, 0x76]
    assert torch.equal(formats.unpack_nibbles(packed), codes)
    assert torch.equal(formats.pack_nibbles(formats.unpack_nibbles(all_bytes())), all_bytes())


def test_mxfp4_decodes_every_scale_and_code() -> None:
    codes = all_bytes()[:16].repeat(256, 2)
    packed, scale = formats.pack_nibbles(codes), all_bytes()[:, None]
    with np.errstate(over="ignore"):
        exact = codes.numpy().view(E2M1).astype(np.float64) * scale.numpy().view(E8M0).astype(
            np.float64
        )
        assert same_bits(formats.dequantize_mxfp4(packed, scale), exact)


def test_mxfp4_scale_is_rounded_up_so_nothing_is_clipped() -> None:
    x = torch.zeros(4, 32)
    x[:, 7] = torch.tensor([6.0, 6.001, 3.0, 0.0])
    packed, scale = formats.quantize_mxfp4(x)
    assert scale.flatten().tolist() == [127, 128, 126, 1]
    assert formats.dequantize_mxfp4(packed, scale)[:, 7].tolist() == [6.0, 6.0, 3.0, 0.0]


def test_mxfp4_roundtrip_is_a_projection() -> None:
    x = torch.randn(7, 128, generator=torch.Generator().manual_seed(0)).bfloat16()
    once = formats.fake_quant_mxfp4(x)
    assert once.dtype == torch.bfloat16
    assert torch.equal(formats.fake_quant_mxfp4(once), once)
    error = (once.float() - x.float()).unflatten(-1, (-1, 32))
    blocks = x.float().unflatten(-1, (-1, 32))
    # Worst case: amax at the midpoint 5 of codes 4 and 6.
    assert bool((error.abs() <= blocks.abs().amax(-1, keepdim=True) / 5).all())


def test_hadamard_is_the_sylvester_matrix_and_its_own_inverse() -> None:
    expected = torch.ones(1, 1)
    for _ in range(3):
        expected = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), expected)
    expected = expected.double() * 8**-0.5
    assert torch.equal(formats.hadamard(torch.eye(8, dtype=torch.float64)), expected)
    x = torch.randn(5, 128, generator=torch.Generator().manual_seed(1))
    twice = formats.hadamard(formats.hadamard(x))
    assert float((twice - x).abs().max()) < 2e-6


def test_bad_dims_are_refused() -> None:
    with pytest.raises(DsvError, match=r"DSV301.*power of two"):
        formats.hadamard(torch.zeros(2, 12))
    with pytest.raises(DsvError, match="DSV301"):
        formats.quantize_mxfp4(torch.zeros(2, 33))
