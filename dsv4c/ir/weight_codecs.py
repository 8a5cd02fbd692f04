"""What the components of a weight mean: exact decoding, and quantising into a format."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dsv4c.errors import DsvError
from dsv4c.ir.formats import (
    E2M1_MAX,
    E4M3_MAX,
    decode_e2m1,
    decode_e4m3,
    decode_e8m0,
    dequantize_mxfp4,
    encode_e2m1,
    encode_e4m3,
    encode_e8m0_ceil,
    pack_nibbles,
    quantize_mxfp4,
    split_blocks,
    unpack_nibbles,
)
from dsv4c.ir.weight_checks import check_component
from dsv4c.ir.weight_formats import (
    FP8_BLOCK,
    MXFP4_BLOCK,
    NVFP4_BLOCK,
    Shape,
    WeightFormat,
    weight_format,
)


def dequantize(
    fmt: str, components: Sequence[Tensor], shape: Sequence[int], *, check: bool = True
) -> Tensor:
    """Float32 values of a weight, exact up to one rounding by a float32 scale.

    Args:
        fmt: format name.
        components: stored tensors in the order of the format.
        shape: logical shape [..., out, in].
        check: refuse scales outside their contract; costs a synchronisation on CUDA, so pass False
            for weights that were checked when loaded.

    Returns:
        float32 tensor of `shape`.

    Raises:
        DsvError: DSV301, unknown format; DSV213, a scale is outside its contract; DSV901, component
            shapes or dtypes are not those of the format.
    """
    spec = weight_format(fmt)
    shape = tuple(shape)
    _require_components(spec, components, shape)
    if check:
        for name, tensor in zip(spec.component_names[1:], components[1:], strict=True):
            check_component(fmt, name, tensor)
    weight = components[0]
    if fmt == "mxfp4":
        return dequantize_mxfp4(weight, components[1])
    if fmt == "nvfp4":
        values = split_blocks(decode_e2m1(unpack_nibbles(weight)), NVFP4_BLOCK)
        # Code times block scale is exact in float32, so scale_2 makes the only rounding.
        values *= decode_e4m3(components[1]).unsqueeze(-1)
        values *= components[2][..., None, None, None]
        return values.flatten(-2)
    if fmt in ("fp8_128", "fp8_128_f32"):
        scale = decode_e8m0(components[1]) if fmt == "fp8_128" else components[1]
        return decode_e4m3(weight).mul_(_expand_128(scale, shape))
    return weight.to(torch.float32)


def quantize(fmt: str, w: Tensor, amax: Tensor | None = None) -> tuple[Tensor, ...]:
    """Components of a weight in a format.

    NVFP4: scale_2 = amax / (6 * 448) per matrix, block scale = E4M3(clamp(block amax /
    (6 * scale_2), 2^-9, 448)), code = E2M1(w / (block scale * scale_2)). MXFP4: see
    `dsv4c.ir.formats.quantize_mxfp4`. FP8: scale 2^ceil(log2(block amax / 448)) as E8M0, or block
    amax / 448 as float32.

    Args:
        fmt: format name.
        w: floating point [..., out, in] (any shape for plain formats); computed in float32.
        amax: float32 [...] per matrix, for NVFP4 weights that share scale_2 with others; at least
            the largest magnitude of each.

    Returns:
        Tensors in the order of the format.

    Raises:
        DsvError: DSV301, unknown format or dims that the format cannot hold; DSV213, w is not finite.
    """
    spec = weight_format(fmt)
    spec.component_shapes(tuple(w.shape))
    if len(spec.components) == 1:
        return (w.to(spec.components[0].torch_dtype),)
    w = w.to(torch.float32)
    if not bool(torch.isfinite(w).all()):
        raise DsvError("DSV213", "a weight to be quantised is NaN or infinite")
    if fmt == "mxfp4":
        return quantize_mxfp4(w, MXFP4_BLOCK)
    if fmt == "nvfp4":
        return _quantize_nvfp4(w, w.abs().amax((-2, -1)) if amax is None else amax)
    return _quantize_fp8_128(w, power_of_two=fmt == "fp8_128")


def _quantize_nvfp4(w: Tensor, amax: Tensor) -> tuple[Tensor, ...]:
    scale_2 = amax.to(torch.float32) / (E2M1_MAX * E4M3_MAX)
    # Below this, block scale times scale_2 would leave the normal range; such a matrix becomes zero.
    scale_2 = torch.where(scale_2 >= 2.0**-117, scale_2, 1.0)
    blocks = split_blocks(w, NVFP4_BLOCK)
    block_scale = blocks.abs().amax(-1) / (E2M1_MAX * scale_2[..., None, None])
    block_scale = torch.where(block_scale > 0, block_scale, 1.0).clamp(2.0**-9, E4M3_MAX)
    scale = encode_e4m3(block_scale)
    step = decode_e4m3(scale) * scale_2[..., None, None]
    codes = encode_e2m1(blocks / step.unsqueeze(-1))
    return pack_nibbles(codes.flatten(-2)), scale, scale_2


def _quantize_fp8_128(w: Tensor, power_of_two: bool) -> tuple[Tensor, Tensor]:
    out, in_ = w.shape[-2:]
    padded = torch.nn.functional.pad(w, (0, -in_ % FP8_BLOCK, 0, -out % FP8_BLOCK))
    blocks = padded.unflatten(-1, (-1, FP8_BLOCK)).unflatten(-3, (-1, FP8_BLOCK))
    # An all-zero block gets the smallest normal scale, byte 1.
    scale = blocks.abs().amax((-3, -1)).clamp_min(E4M3_MAX * 2.0**-126) / E4M3_MAX
    if not power_of_two:
        return encode_e4m3(w / _expand_128(scale, w.shape)), scale
    scale = encode_e8m0_ceil(scale)
    return encode_e4m3(w / _expand_128(decode_e8m0(scale), w.shape)), scale


def _expand_128(scale: Tensor, shape: Sequence[int]) -> Tensor:
    """Repeat one value per 128x128 block over [..., out, in]."""
    rows = scale.repeat_interleave(FP8_BLOCK, dim=-2)[..., : shape[-2], :]
    return rows.repeat_interleave(FP8_BLOCK, dim=-1)[..., : shape[-1]]


def _require_components(spec: WeightFormat, components: Sequence[Tensor], shape: Shape) -> None:
    expected = spec.component_shapes(shape)
    found = tuple(tuple(t.shape) for t in components)
    typed = len(components) == len(spec.components) and all(
        t.dtype == c.torch_dtype for c, t in zip(spec.components, components, strict=True)
    )
    if found != expected or not typed:
        raise DsvError(
            "DSV901",
            f"components do not make a {spec.name} weight of shape {list(shape)}",
            expected=str([list(s) for s in expected]),
            found=str([(list(t.shape), str(t.dtype)) for t in components]),
        )
