"""What rounding may do to the output of sparse attention: to an element, and to a row's slope."""

from __future__ import annotations

import dataclasses
import math

import torch
from harness import BF16_ROUNDING, F32_ROUNDING, SLOPE_LIMIT, Gate

from dsv4c.codegen.kernels.sparse_attention import DIM, SCALE


def bounds(
    q: torch.Tensor, v: torch.Tensor, s: torch.Tensor, p: torch.Tensor, out: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What rounding may do to an element, and to the slope of a row.

    |y - r| <= u_bf16 |r|                                      rounding of the output
             + u_bf16 min(sum p|v - r|, 4 sqrt(sum p^2 (v - r)^2))  rounding of every p to bf16
             + sum p|v| e + |r| sum p e                         fp32 errors e of the scores
             + 4 u_f32 sqrt(n) sum p|v|                         fp32 sums
             + 2^-126 (1 + 2^8 sum |v|)                         subnormal p, y, exp(-sink) may be 0
    with e_j = 4 u_f32 (sqrt(512) scale sum|q K_j| + |s_j| + max|s| + 4). The denominator sums p as
    rounded, so a p that is off by d moves the output by d (v - r). The first term of the min is
    certain (its sum is at most sqrt(sum p sum p (v - r)^2)). The second takes roundings of different
    rows as independent: they are uniform within their limit, so c = 4 is 6.9 standard deviations. A
    row's slope takes p_j's error with the weight w_j = p_j (<v_j, r> / |r|^2 - 1), and that of the
    output's elements with r_d^2 / |r|^2, or with max(w + p): multiples of one row by almost 1 are
    all rounded the same way.
    """
    finite = torch.where(torch.isfinite(s), s, 0.0).abs()
    v, r = (torch.where(torch.isfinite(t), t, 0.0) for t in (v, out))
    size = v.abs()
    e = math.sqrt(DIM) * SCALE * (q.abs() @ size.mT) + finite + finite.amax(-1, True) + 4
    e = 4 * F32_ROUNDING * e
    whole = p @ size
    mass = p.sum(-1, keepdim=True)
    certain, chance = (_spread(w, v, r) for w in (p, p * p))
    rounding = torch.minimum((mass * certain).sqrt(), 4 * chance.sqrt()) * BF16_ROUNDING
    scores = (p * e) @ size + out.abs() * (p * e).sum(-1, keepdim=True)
    sums = 4 * F32_ROUNDING * math.sqrt(v.shape[1]) * whole
    least = 2.0**-126 * (1 + 256 * size.sum(1, keepdim=True))
    bound = BF16_ROUNDING * out.abs() + rounding + scores + sums + least
    along = p * (r @ v.mT) / r.square().sum(-1, keepdim=True).clamp_min(1e-300)
    weight = along - p
    share = r.square() / r.square().sum(-1, keepdim=True).clamp_min(1e-300)
    moved, stored = (
        torch.minimum(w.abs().sum(-1), 4 * w.square().sum(-1).sqrt()) for w in (weight, share)
    )
    spread = moved + torch.maximum(stored, along.abs().amax(-1).clamp_max(1.0))
    slope = spread * BF16_ROUNDING + 2 * (weight.abs() * e).sum(-1)
    return bound, slope.clamp_min(SLOPE_LIMIT)


def _spread(weights: torch.Tensor, v: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    """sum_j w_j (v_j - r)^2, element by element."""
    total = weights @ (v * v) - 2 * r * (weights @ v) + r * r * weights.sum(-1, keepdim=True)
    return total.clamp_min(0.0)


def with_slope(gate: Gate, y: torch.Tensor, r: torch.Tensor, limit: torch.Tensor) -> Gate:
    """The gate with the slope judged row by row: one p of few may be off by its rounding.

    What the correctly rounded row itself is off by is allowed beside the limit.
    """
    if not math.isfinite(gate.ratio):
        return gate
    rounded = r.to(y.dtype)
    y, rounded, r = (torch.where(torch.isfinite(r), t.double(), 0.0) for t in (y, rounded, r))
    square = (r * r).sum(-1)
    known = square > 2.0**-200
    off, own = (torch.where(known, ((t * r).sum(-1) / square - 1).abs(), 0.0) for t in (y, rounded))
    worst = float((off / (limit + own)).nan_to_num().max())
    small = dataclasses.replace(gate, slope=float(off.max()))
    l2 = torch.where(known, (y - r).norm(dim=-1) / square.sqrt(), 0.0)
    # p and the output are each rounded by at most u_bf16
    ok = gate.ratio <= 1 and worst <= 1 and float(l2.max()) <= 2 * BF16_ROUNDING
    detail = f"slope at {worst:.2f} of its bound" + ("" if ok else f"; {gate.detail}")
    return dataclasses.replace(small, ok=ok, detail=detail, row_l2=float(l2.max()))
