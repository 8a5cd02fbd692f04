"""MXFP4 to NVFP4: every byte of every spread, joint scales, refusals."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from dsv4c.errors import DsvError
from dsv4c.ir.formats import pack_nibbles
from dsv4c.ir.weight_casts import cast_mxfp4_to_nvfp4, largest_exponent
from dsv4c.ir.weight_codecs import dequantize


def rows(scales: torch.Tensor) -> torch.Tensor:
    """Packed [scales, 16]: a block of 32 with every code twice for each scale."""
    return pack_nibbles(torch.arange(32).remainder(16).to(torch.uint8).repeat(len(scales), 1))


def exact(packed: torch.Tensor, scales: torch.Tensor) -> np.ndarray:
    """Float64 values by ml_dtypes."""
    nibbles = np.stack([packed.numpy() & 0xF, packed.numpy() >> 4], -1).reshape(len(packed), -1)
    codes = nibbles.astype(np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float64)
    return codes * scales.numpy().view(ml_dtypes.float8_e8m0fnu).astype(np.float64)


@pytest.mark.parametrize("largest", range(9, 252))
def test_every_spread_that_fits_is_exact(largest: int) -> None:
    scales = torch.arange(max(largest - 17, 0), largest + 1).to(torch.uint8)[:, None]
    packed = rows(scales)
    assert largest_exponent(packed, scales) == largest
    cast = cast_mxfp4_to_nvfp4(packed, scales, largest)
    assert cast[0] is packed
    out = dequantize("nvfp4", cast, (len(scales), 32)).numpy()
    assert np.array_equal(
        out.view(np.int32), exact(packed, scales).astype(np.float32).view(np.int32)
    )
    assert np.array_equal(
        out.view(np.int32), dequantize("mxfp4", (packed, scales), out.shape).numpy().view(np.int32)
    )


def test_worked_example() -> None:
    """A block with exponent -2 in a tensor whose largest is 0: scale_2 2^-8, block scale 2^6."""
    scales = torch.tensor([[127 - 2, 127]], dtype=torch.uint8)
    packed = rows(torch.zeros(2)).reshape(1, 32)
    _, blocks, scale_2 = cast_mxfp4_to_nvfp4(packed, scales, largest_exponent(packed, scales))
    assert (scale_2.item(), blocks.tolist()) == (2.0**-8, [[0x68, 0x68, 0x78, 0x78]])


@pytest.mark.parametrize(
    ("low", "high"), [(109, 127), (0, 18), (100, 252), (0, 8), (8, 8), (252, 252)]
)
def test_spreads_that_do_not_fit_are_refused(low: int, high: int) -> None:
    scales = torch.tensor([[low], [high]], dtype=torch.uint8)
    packed = rows(scales)
    with pytest.raises(DsvError, match="file f, tensor t") as error:
        cast_mxfp4_to_nvfp4(packed, scales, largest_exponent(packed, scales), "file f, tensor t")
    assert error.value.code == "DSV301"
    assert f"2^{low - 127} beside 2^{high - 127}" in error.value.found


def test_the_other_projection_may_have_the_largest() -> None:
    scales = torch.tensor([[110]], dtype=torch.uint8)
    packed = rows(scales)
    out = dequantize("nvfp4", cast_mxfp4_to_nvfp4(packed, scales, 127), (1, 32)).numpy()
    assert np.array_equal(out, exact(packed, scales).astype(np.float32))
    with pytest.raises(DsvError, match="do not fit"):
        cast_mxfp4_to_nvfp4(packed, scales, 128)


@pytest.mark.parametrize("marker", [0, 1, 252])
def test_blocks_of_zeros_do_not_count(marker: int) -> None:
    """Byte 0 or 1 marks them in released weights; zeros of both signs stay what they are."""
    scales = torch.tensor([[127], [marker]], dtype=torch.uint8)
    packed = rows(scales)
    packed[1] = torch.arange(16).remainder(2).to(torch.uint8) * 0x88
    assert largest_exponent(packed, scales) == 127
    out = dequantize("nvfp4", cast_mxfp4_to_nvfp4(packed, scales, 127), (2, 32))
    same = dequantize("mxfp4", (packed, scales), (2, 32))
    assert torch.equal(out.view(torch.int32), same.view(torch.int32))


def test_a_matrix_of_zeros() -> None:
    packed, scales = torch.zeros(2, 32, dtype=torch.uint8), torch.zeros(2, 2, dtype=torch.uint8)
    largest = largest_exponent(packed, scales)
    assert largest == 0
    _, blocks, scale_2 = cast_mxfp4_to_nvfp4(packed, scales, largest)
    assert (scale_2.item(), set(blocks.flatten().tolist())) == (1.0, {0x78})
