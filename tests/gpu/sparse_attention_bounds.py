"""What rounding may do to the output of sparse attention: to an element, to a row, to its slope."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from harness import BF16_ROUNDING, F32_ROUNDING, SLOPE_LIMIT, Gate

from dsv4c.codegen.kernels.sparse_attention import DIM, SCALE

# Keys of a row whose share of the bound is exact.
HEAVY = 8
# Relative L2 error of a row: of two independent roundings about 2.4e-3; of a few keys, certain.
ROW_L2, FEW_L2 = 4e-3, 2 * BF16_ROUNDING


@dataclass(frozen=True)
class Limits:
    """Of every element, and of every row: slope, its standard deviation, relative L2 error."""

    element: torch.Tensor
    slope: torch.Tensor
    deviation: torch.Tensor
    l2: torch.Tensor


def limits(
    q: torch.Tensor, v: torch.Tensor, s: torch.Tensor, p: torch.Tensor, out: torch.Tensor
) -> Limits:
    """What rounding may do to an element, to a row, and to a row's slope.

    |y - r| <= u_bf16 |r|                                      rounding of the output
             + u_bf16 min(sum p|v - r|, 4 sqrt(sum p^2 (v - r)^2))  rounding of every p to bf16
             + sum p|v| e + |r| sum p e                         fp32 errors e of the scores
             + 4 u_f32 sqrt(n) sum p|v|                         fp32 sums
             + 2^-126 (1 + 2^8 sum |v|)                         subnormal p, y, exp(-sink) may be 0
    with e_j = 4 u_f32 (sqrt(512) scale sum|q K_j| + |s_j| + max|s| + 4). The denominator sums p as
    rounded, so a p that is off by d moves the output by d (v - r). The first term of the min is
    certain; beyond a row's largest `HEAVY` p its sum is taken as sqrt(sum p sum p (v - r)^2). The
    second takes roundings of different rows as independent: they are uniform within their limit, so
    c = 4 is 6.9 standard deviations.

    A row's slope takes p_j's error with the weight w_j = p_j (<v_j, r> / |r|^2 - 1), and that of the
    output's elements with s_d = r_d^2 / |r|^2: by chance 4 u sqrt(sum w^2 + sum s^2). Multiples of
    one row by almost 1 are all rounded the same way: sum |w| and max(w + p) are certain. Beside the
    correctly rounded row, whose elements have errors of their own, a slope's standard deviation is
    at most u sqrt((sum w^2 + 2 sum s^2) / 3).
    """
    finite = torch.where(torch.isfinite(s), s, 0.0).abs()
    v, r = (torch.where(torch.isfinite(t), t, 0.0) for t in (v, out))
    size = v.abs()
    e = math.sqrt(DIM) * SCALE * (q.abs() @ size.mT) + finite + finite.amax(-1, True) + 4
    e = 4 * F32_ROUNDING * e
    chance = _spread(p * p, v, r)
    rounding = torch.minimum(_certain(p, v, r), 4 * chance.sqrt()) * BF16_ROUNDING
    scores = (p * e) @ size + out.abs() * (p * e).sum(-1, keepdim=True)
    sums = 4 * F32_ROUNDING * math.sqrt(v.shape[1]) * (p @ size)
    least = 2.0**-126 * (1 + 256 * size.sum(1, keepdim=True))
    element = BF16_ROUNDING * out.abs() + rounding + scores + sums + least

    square = r.square().sum(-1, keepdim=True).clamp_min(1e-300)
    along = p * (r @ v.mT) / square
    weight = along - p
    moved, stored = (t.square().sum(-1) for t in (weight, r.square() / square))
    certain = weight.abs().sum(-1)
    together = torch.minimum(certain, 4 * moved.sqrt()) + along.abs().amax(-1).clamp_max(1.0)
    wide = torch.minimum(certain + 1, torch.maximum(4 * (moved + stored).sqrt(), together))
    fp32 = 2 * (weight.abs() * e).sum(-1)
    slope = (wide * BF16_ROUNDING + fp32).clamp_min(SLOPE_LIMIT)
    deviation = BF16_ROUNDING * ((moved + 2 * stored) / 3).sqrt() + fp32
    keys = p.sum(-1).square() / p.square().sum(-1).clamp_min(1e-300)
    apart = ((1 + chance.sum(-1) / square[..., 0]) / 2).clamp_min(1.0).sqrt()
    l2 = torch.where(keys > HEAVY, (ROW_L2 * apart).clamp_max(FEW_L2), FEW_L2)
    return Limits(element, slope, deviation, l2 + fp32)


def _spread(weights: torch.Tensor, v: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    """sum_j w_j (v_j - r)^2, element by element."""
    total = weights @ (v * v) - 2 * r * (weights @ v) + r * r * weights.sum(-1, keepdim=True)
    return total.clamp_min(0.0)


def _certain(p: torch.Tensor, v: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    """sum_j p_j |v_j - r|: exact for a row's largest p, with the root mean square for the others."""
    heavy, at = p.topk(min(HEAVY, p.shape[-1]), -1)
    total = torch.zeros_like(r)
    for weight, key in zip(heavy.unbind(-1), at.unbind(-1), strict=True):
        rows = v.gather(1, key.unsqueeze(-1).expand(-1, -1, v.shape[-1]))
        total += weight.unsqueeze(-1) * (rows - r).abs()
    others = p.scatter(-1, at, 0.0)
    return total + (others.sum(-1, keepdim=True) * _spread(others, v, r)).sqrt()


def judged(gate: Gate, y: torch.Tensor, r: torch.Tensor, limit: Limits) -> Gate:
    """The gate with slope and L2 error judged row by row: one p of few may be off by its rounding.

    Slopes are those beside the correctly rounded row's. None may be beyond its limit; and all in
    units of their standard deviations have a mean square of at most 1: an error that all elements
    of a row share does not hide below what chance does to the worst of many rows.
    """
    if not math.isfinite(gate.ratio):
        return gate
    rounded = r.to(y.dtype)
    y, rounded, r = (torch.where(torch.isfinite(r), t.double(), 0.0) for t in (y, rounded, r))
    square = (r * r).sum(-1)
    known = square > 2.0**-200
    off = torch.where(known, ((y - rounded) * r).sum(-1) / square, 0.0)
    l2 = torch.where(known, (y - r).norm(dim=-1) / square.sqrt(), 0.0)
    worst, wide = (_largest(part[known]) for part in (off.abs() / limit.slope, l2 / limit.l2))
    squares = (off / limit.deviation)[known].square()
    usual = math.sqrt(_largest(squares.mean(0, keepdim=True))) if squares.numel() else 0.0
    most = 1 + math.sqrt(8 / max(squares.numel(), 1))
    ok = gate.ratio <= 1 and worst <= 1 and wide <= 1 and usual <= most
    detail = f"slope at {worst:.2f} of its limit, {usual:.2f} deviations of {most:.2f}"
    detail += f", L2 at {wide:.2f}" + ("" if ok else f"; {gate.detail}")
    slope, row_l2 = float(off.abs().max()), float(l2.max())
    return dataclasses.replace(gate, ok=ok, detail=detail, row_l2=row_l2, slope=slope)


def _largest(ratios: torch.Tensor) -> float:
    """The largest; a limit that is no number is none that holds."""
    return float(ratios.nan_to_num(nan=math.inf).max()) if ratios.numel() else 0.0
