"""Mixture of experts: router, grouping, expert linears, clamped SwiGLU, combine (deepseek-v4.md 3.8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch.nn import functional

from dsv4c.ir.graph import Attr
from dsv4c.ir.op import Arg, CostRule, OpSpec, register
from dsv4c.ir.types import TensorType, Type, WeightType
from dsv4c.ir.values import Context, Weight


def _scores(ctx: Context, logits: torch.Tensor) -> torch.Tensor:
    return functional.softplus(logits.to(ctx.compute)).sqrt()


def _routing_weights(scores: torch.Tensor, experts: torch.Tensor, scale: float) -> torch.Tensor:
    chosen = scores.gather(1, experts)
    return chosen / (chosen.sum(-1, keepdim=True) + 1e-20) * scale


def route_learned(
    ctx: Context, logits: torch.Tensor, bias: Weight, k: int, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = _scores(ctx, logits)
    order = (scores + bias.dense(ctx.compute)).sort(dim=1, descending=True, stable=True).indices
    experts = order[:, :k]
    return experts, _routing_weights(scores, experts, scale)


_ROUTES = (Arg("experts", "T k", dtype="i32"), Arg("weights", "T k", dtype="f32"))
register(
    OpSpec(
        "route_learned",
        "experts = top-k of s + bias, s = sqrt(softplus(logits)); weights = scale * s / sum of chosen s",
        (Arg("logits", "T E", dtype="f32"), Arg("bias", "E", "weight")),
        _ROUTES,
        route_learned,
        attrs={"k": int, "scale": float},
        flops=lambda dims, attrs: 8.0 * dims["T"] * dims["E"],
    )
)


def route_hash(
    ctx: Context, logits: torch.Tensor, table: Weight, ids: torch.Tensor, k: int, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    experts = table.components[0][ids].long()
    return experts, _routing_weights(_scores(ctx, logits), experts, scale)


register(
    OpSpec(
        "route_hash",
        "experts = table[token id]; weights as in route_learned",
        (
            Arg("logits", "T E", dtype="f32"),
            Arg("table", "V k", "weight"),
            Arg("ids", "T", dtype="i32"),
        ),
        _ROUTES,
        route_hash,
        attrs={"k": int, "scale": float},
        flops=lambda dims, attrs: 8.0 * dims["T"] * dims["E"],
        traffic=lambda dims, attrs: -8.0 * (dims["V"] - dims["T"]) * dims["k"],
    )
)


def group_tokens(
    ctx: Context, experts: torch.Tensor, bounds: int
) -> tuple[torch.Tensor, torch.Tensor]:
    flat = experts.flatten().long()
    offsets = flat.new_zeros(bounds)
    offsets[1:] = flat.bincount(minlength=bounds - 1).cumsum(0)
    return flat.argsort(stable=True).view(experts.shape), offsets


register(
    OpSpec(
        "group_tokens",
        "order = pair numbers t * k + j by expert, then number; expert e's: offsets[e] to offsets[e+1]",
        (Arg("experts", "T k", dtype="i32"),),
        (Arg("order", "T k", dtype="i32"), Arg("offsets", "bounds", dtype="i32")),
        group_tokens,
        attrs={"bounds": int},
    )
)


def expert_linear(
    ctx: Context, x: torch.Tensor, w: Weight, order: torch.Tensor, offsets: torch.Tensor
) -> torch.Tensor:
    tokens, k = order.shape
    y = torch.zeros(tokens * k, w.type.dims[1], dtype=ctx.compute, device=x.device)
    flat, bounds = order.flatten().long(), offsets.tolist()
    rows = x.flatten(0, 1) if x.dim() == 3 else x
    for e, (begin, end) in enumerate(pairwise(bounds)):
        if begin < end:
            pairs = flat[begin:end]
            source = pairs if x.dim() == 3 else pairs // k
            y[pairs] = rows[source].to(ctx.compute) @ w.expert(e, ctx.compute).T
    return y.view(tokens, k, -1)


def _expert_bounds(types: Sequence[Type], attrs: Mapping[str, Attr]) -> str:
    weight, offsets = types[1], types[3]
    assert isinstance(weight, WeightType)
    assert isinstance(offsets, TensorType)
    wanted = (weight.dims[0] + 1,)
    return "" if offsets.dims == wanted else f"offsets are {offsets.dims}, expected {wanted}"


register(
    OpSpec(
        "expert_linear",
        "y[t, j] = x[t (, j)] @ w[expert of pair t * k + j].T; the experts as group_tokens gives them",
        (
            Arg("x", "T *j d"),
            Arg("w", "E n d", "weight"),
            Arg("order", "T k", dtype="i32"),
            Arg("offsets", "bounds", dtype="i32"),
        ),
        (Arg("y", "T k n", dtype="attr"),),
        expert_linear,
        attrs={"dtype": "bf16"},
        flops=lambda dims, attrs: 2.0 * dims["T"] * dims["k"] * dims["n"] * dims["d"],
        # experts that no token chose are not read: E (1 - (1 - k/E)^T) are, if the routing is even
        traffic=lambda dims, attrs: (
            -dims["weight_bytes"] * (1.0 - dims["k"] / dims["E"]) ** dims["T"]
        ),
        check=_expert_bounds,
        summed="d",
    )
)


def _swiglu(ctx: Context, gate: torch.Tensor, up: torch.Tensor, limit: float) -> torch.Tensor:
    gate = gate.to(ctx.compute).clamp(max=limit)
    return functional.silu(gate) * up.to(ctx.compute).clamp(-limit, limit)


def swiglu(ctx: Context, gate: torch.Tensor, up: torch.Tensor, limit: float) -> torch.Tensor:
    return _swiglu(ctx, gate, up, limit)


def routed_swiglu(
    ctx: Context, gate: torch.Tensor, up: torch.Tensor, weights: torch.Tensor, limit: float
) -> torch.Tensor:
    return _swiglu(ctx, gate, up, limit) * weights.to(ctx.compute)[..., None]


_SWIGLU_FLOPS: CostRule = lambda dims, attrs: 8.0 * dims["*b"] * dims["n"]  # noqa: E731
register(
    OpSpec(
        "swiglu",
        "a = silu(min(gate, limit)) * clamp(up, -limit, limit)",
        (Arg("gate", "*b n"), Arg("up", "*b n")),
        (Arg("a", "*b n", dtype="like"),),
        swiglu,
        attrs={"limit": float},
        flops=_SWIGLU_FLOPS,
    )
)
register(
    OpSpec(
        "routed_swiglu",
        "a = weights * silu(min(gate, limit)) * clamp(up, -limit, limit): weighted before w2",
        (Arg("gate", "*b n"), Arg("up", "*b n"), Arg("weights", "*b", dtype="f32")),
        (Arg("a", "*b n", dtype="like"),),
        routed_swiglu,
        attrs={"limit": float},
        flops=_SWIGLU_FLOPS,
    )
)


def combine(ctx: Context, routed: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
    return routed.to(ctx.compute).sum(1) + shared.to(ctx.compute)


register(
    OpSpec(
        "combine",
        "y = sum over the k chosen experts + the shared expert",
        (Arg("routed", "T k d"), Arg("shared", "T d")),
        (Arg("y", "T d", dtype="like"),),
        combine,
        flops=lambda dims, attrs: 1.0 * dims["T"] * (dims["k"] + 1) * dims["d"],
        summed="k",
    )
)
