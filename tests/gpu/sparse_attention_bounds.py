"""What rounding may do to the output of sparse attention: to an element, to a row, to its slope."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from harness import BF16_ROUNDING, F32_ROUNDING, SLOPE_LIMIT, Gate

from dsv4c.codegen.kernels.sparse_attention import DIM, SCALE

# Keys of a row whose share of the bound is exact. The elements of a sum of no more than so many FP8
# codes take few values, and those of one value are rounded alike.
HEAVY = 8


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
    c = 4 is 6.9 standard deviations. Where p are so alike that they are not, `_alike` comes on top.

    A row's slope takes p_j's error with the weight w_j = p_j (<v_j, r> / |r|^2 - 1), and that of the
    output's elements with s_d = r_d^2 / |r|^2: by chance 4 u sqrt(sum w^2 + sum s^2). Multiples of
    one row by almost 1 are all rounded the same way: sum |w| and max(w + p) are certain. Beside the
    correctly rounded row, whose elements have errors of their own, a slope's standard deviation is
    at most u sqrt((sum w^2 + 2 sum s^2) / 3).

    A row's relative L2 error is made of two: of the output's rounding, whose square has the mean
    u^2 / 3 and the variance u^4 4 / 45 sum s^2, or is u^2 with few keys; and of p's, with the mean
    square u^2 / 3 M, where M = sum p^2 |v - r|^2 / |r|^2, and by chance 4 u more than its root along
    the direction of most.
    """
    finite = torch.where(torch.isfinite(s), s, 0.0).abs()
    v, r = (torch.where(torch.isfinite(t), t, 0.0) for t in (v, out))
    size = v.abs()
    e = math.sqrt(DIM) * SCALE * (q.abs() @ size.mT) + finite + finite.amax(-1, True) + 4
    e = 4 * F32_ROUNDING * e
    sure, alike = _certain(p, v, r), _alike(p, s, v, r)
    common, bent = alike
    rounding = 4 * _spread(p * p, v, r).sqrt() + common[..., None] * r.abs() + bent.abs()
    rounding = torch.minimum(sure, rounding) * BF16_ROUNDING
    scores = (p * e) @ size + out.abs() * (p * e).sum(-1, keepdim=True)
    sums = 4 * F32_ROUNDING * math.sqrt(v.shape[1]) * (p @ size)
    least = 2.0**-126 * (1 + 256 * size.sum(1, keepdim=True))
    element = BF16_ROUNDING * out.abs() + rounding + scores + sums + least
    return Limits(element, *_of_rows(p, v, r, e, sure, alike))


def _of_rows(
    p: torch.Tensor,
    v: torch.Tensor,
    r: torch.Tensor,
    e: torch.Tensor,
    sure: torch.Tensor,
    alike: tuple[torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A row's slope, its standard deviation, the relative L2 error."""
    square = r.square().sum(-1, keepdim=True).clamp_min(1e-300)
    length, dots = square.sqrt()[..., 0], r @ v.mT
    common, bent = alike
    along = p * dots / square
    weight = along - p
    moved, stored = (t.square().sum(-1) for t in (weight, r.square() / square))
    fp32 = 2 * (weight.abs() * e).sum(-1)

    certain = weight.abs().sum(-1)
    together = torch.minimum(certain, 4 * moved.sqrt()) + along.abs().amax(-1).clamp_max(1.0)
    turned = common + (bent * r).sum(-1).abs() / square[..., 0]
    wide = torch.maximum(4 * (moved + stored).sqrt(), together) + turned
    slope = torch.minimum(certain + 1, wide) * BF16_ROUNDING + fp32
    deviation = BF16_ROUNDING * ((moved + 2 * stored + turned.square()) / 3).sqrt() + fp32

    keys = p.sum(-1).square() / p.square().sum(-1).clamp_min(1e-300)
    stored = (1 / 3 + 4 * (4 / 15 * stored).sqrt()).clamp_max(1.0)
    stored = torch.where(keys > HEAVY, stored, 1.0)
    apart = (v.square().sum(-1)[:, None] - 2 * dots + square).clamp_min(0.0)
    apart = p * p * apart / square
    far = (apart.sum(-1) / 3).sqrt() + 4 * torch.maximum(apart.amax(-1), moved).sqrt()
    far = torch.minimum(far + common + bent.norm(dim=-1) / length, sure.norm(dim=-1) / length)
    l2 = BF16_ROUNDING * (stored + far.square()).sqrt() + fp32
    return slope.clamp_min(SLOPE_LIMIT), deviation, l2


def _alike(
    p: torch.Tensor, s: torch.Tensor, v: torch.Tensor, r: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """In units of u_bf16, what p whose errors are alike do: along r, per row; and per element.

    Numbers so near each other that they round to one or two of bf16 have errors that are a function
    of s: by Fourier, of normal s with standard deviation d and steps of 2 u their mean and their
    slope over s are at most min(1, 2 exp(-2 (pi d / 2 u)^2)) of u and of u / d. A common error remains
    as far as the sink has a share of the sum; one that follows s moves the output by
    sum p (s - mean) (v - r) / d.
    """
    total = p.sum(-1, keepdim=True)
    x = torch.where(p > 0, s, 0.0)
    x = torch.where(p > 0, x - (p * x).sum(-1, keepdim=True) / total, 0.0)
    variance = (p * x * x).sum(-1, keepdim=True) / total
    step = 2 * BF16_ROUNDING
    part = (2 * torch.exp(-2 * math.pi**2 * variance / step**2)).clamp_max(1.0)
    along = p * x / variance.sqrt().clamp_min(1e-9)
    bent = part * (along @ v - r * along.sum(-1, keepdim=True))
    bent, common = (torch.where(total > 0, t, 0.0) for t in (bent, part * (1 - total)))
    return common[..., 0], bent


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
