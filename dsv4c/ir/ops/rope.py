"""Rotary position embedding: angles once per step, rotation of the last dims (section 1.2)."""

from __future__ import annotations

import math

import torch

from dsv4c.ir.op import Arg, OpSpec, register
from dsv4c.ir.values import Context


def rope_frequencies(
    dims: int, theta: float, factor: float, original: int, beta_fast: float, beta_slow: float
) -> torch.Tensor:
    """f32 [dims/2] frequencies; YaRN where factor > 1 (deepseek-v4.md 1.2)."""
    base = theta ** (-torch.arange(0, dims, 2, dtype=torch.float32) / dims)
    if factor <= 1:
        return base

    def correction(beta: float) -> float:
        return dims * math.log(original / (2 * math.pi * beta)) / (2 * math.log(theta))

    low = max(math.floor(correction(beta_fast)), 0)
    high = min(math.ceil(correction(beta_slow)), dims - 1)
    ramp = (torch.arange(dims // 2, dtype=torch.float32) - low) / max(high - low, 0.001)
    ramp = ramp.clamp(0, 1)
    return base / factor * ramp + base * (1 - ramp)


def rope_angles(
    ctx: Context,
    pos: torch.Tensor,
    dims: int,
    theta: float,
    factor: float,
    original: int,
    beta_fast: float,
    beta_slow: float,
    offset: int,
) -> torch.Tensor:
    freqs = rope_frequencies(dims, theta, factor, original, beta_fast, beta_slow)
    # fp32 product and fp32 cos/sin in every precision: the model was trained with these roundings
    angle = (pos + offset).clamp(min=0).float()[:, None] * freqs.to(pos.device)
    return torch.cat((angle.cos(), angle.sin()), -1)


register(
    OpSpec(
        "rope_angles",
        "cos and sin of max(pos + offset, 0) * f_i for dims/2 pairs, f with YaRN if factor > 1",
        (Arg("pos", "T", dtype="i32"),),
        (Arg("angles", "T dims", dtype="f32"),),
        rope_angles,
        attrs={
            "dims": int,
            "theta": float,
            "factor": 1.0,
            "original": 0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "offset": 0,
        },
        flops=lambda dims, attrs: 20.0 * dims["T"] * dims["dims"],
    )
)


def rope(ctx: Context, x: torch.Tensor, angles: torch.Tensor, inverse: bool) -> torch.Tensor:
    dims = angles.shape[-1]
    shape = (x.shape[0], *(1,) * (x.dim() - 2), dims // 2)
    cos, sin = (part.to(ctx.compute).view(shape) for part in angles.chunk(2, -1))
    sin = -sin if inverse else sin
    x = x.to(ctx.compute)
    pairs = x[..., -dims:].unflatten(-1, (-1, 2))
    a, b = pairs[..., 0], pairs[..., 1]
    turned = torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)
    return torch.cat((x[..., :-dims], turned), -1)


register(
    OpSpec(
        "rope",
        "rotate the interleaved pairs (2i, 2i+1) of the last r dims by the angles, or back",
        (Arg("x", "T *h c"), Arg("angles", "T r", dtype="f32")),
        (Arg("y", "T *h c", dtype="like"),),
        rope,
        attrs={"inverse": False},
        flops=lambda dims, attrs: 3.0 * dims["T"] * dims["*h"] * dims["r"],
        check=lambda types, attrs: (
            ""
            if types[1].dims[-1] <= types[0].dims[-1]  # pyright: ignore
            else "more dims to rotate than there are"
        ),
    )
)
