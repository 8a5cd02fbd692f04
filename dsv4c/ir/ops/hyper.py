"""mHC, manifold-constrained hyper-connections (deepseek-v4.md 3.1). All maths in fp32."""

from __future__ import annotations

import torch

from dsv4c.ir.op import Arg, OpSpec, register
from dsv4c.ir.values import Context, Weight


def expand_streams(ctx: Context, x: torch.Tensor, streams: int) -> torch.Tensor:
    return x[:, None].expand(-1, streams, -1)


register(
    OpSpec(
        "expand_streams",
        "X[t, s] = x[t] for every stream s",
        (Arg("x", "T d"),),
        (Arg("X", "T streams d", dtype="like"),),
        expand_streams,
        attrs={"streams": int},
    )
)


def mhc_mix(ctx: Context, streams: torch.Tensor, fn: Weight, eps: float) -> torch.Tensor:
    v = streams.to(ctx.compute).flatten(1)
    return v @ fn.dense(ctx.compute).T * torch.rsqrt(v.square().mean(-1, keepdim=True) + eps)


register(
    OpSpec(
        "mhc_mix",
        "mix = (fn . v) * rsqrt(mean(v^2) + eps), v = the streams of a token, flattened",
        (Arg("X", "T s d"), Arg("fn", "m k", "weight")),
        (Arg("mix", "T m", dtype="f32"),),
        mhc_mix,
        attrs={"eps": 1e-6},
        flops=lambda dims, attrs: 2.0 * dims["T"] * (dims["m"] + 1) * dims["k"],
        summed="k",
    )
)


def mhc_coefficients(
    ctx: Context,
    mix: torch.Tensor,
    base: Weight,
    scale: Weight,
    streams: int,
    iters: int,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    n = streams
    mix, b, s = mix.to(ctx.compute), base.dense(ctx.compute), scale.dense(ctx.compute)
    pre = torch.sigmoid(mix[:, :n] * s[0] + b[:n]) + eps
    post = 2 * torch.sigmoid(mix[:, n : 2 * n] * s[1] + b[n : 2 * n])
    comb = (mix[:, 2 * n :] * s[2] + b[2 * n :]).unflatten(-1, (n, n)).softmax(-1) + eps
    comb = comb / (comb.sum(-2, keepdim=True) + eps)
    for _ in range(iters - 1):
        comb = comb / (comb.sum(-1, keepdim=True) + eps)
        comb = comb / (comb.sum(-2, keepdim=True) + eps)
    return pre, post, comb


register(
    OpSpec(
        "mhc_coefficients",
        "pre = sigmoid + eps, post = 2 sigmoid, comb = Sinkhorn of softmax, of mix * scale + base",
        (Arg("mix", "T m", dtype="f32"), Arg("base", "m", "weight"), Arg("scale", "3", "weight")),
        (
            Arg("pre", "T streams", dtype="f32"),
            Arg("post", "T streams", dtype="f32"),
            Arg("comb", "T streams streams", dtype="f32"),
        ),
        mhc_coefficients,
        attrs={"streams": int, "iters": int, "eps": 1e-6},
        flops=lambda dims, attrs: dims["T"] * dims["m"] * (8.0 + 4.0 * int(attrs["iters"])),  # pyright: ignore
        roundings=lambda attrs: 2 * int(attrs["iters"]),  # pyright: ignore[reportArgumentType]
    )
)


def mhc_head_coefficients(
    ctx: Context, mix: torch.Tensor, base: Weight, scale: Weight, eps: float
) -> torch.Tensor:
    b, s = base.dense(ctx.compute), scale.dense(ctx.compute)
    return torch.sigmoid(mix.to(ctx.compute) * s + b) + eps


register(
    OpSpec(
        "mhc_head_coefficients",
        "w = sigmoid(mix * scale + base) + eps",
        (Arg("mix", "T m", dtype="f32"), Arg("base", "m", "weight"), Arg("scale", "1", "weight")),
        (Arg("w", "T m", dtype="f32"),),
        mhc_head_coefficients,
        attrs={"eps": 1e-6},
        flops=lambda dims, attrs: 8.0 * dims["T"] * dims["m"],
    )
)


def mhc_collapse(ctx: Context, streams: torch.Tensor, pre: torch.Tensor) -> torch.Tensor:
    return torch.einsum("tsd,ts->td", streams.to(ctx.compute), pre.to(ctx.compute))


register(
    OpSpec(
        "mhc_collapse",
        "x = sum_s pre[s] * X[s]",
        (Arg("X", "T s d"), Arg("pre", "T s", dtype="f32")),
        (Arg("x", "T d", dtype="like"),),
        mhc_collapse,
        flops=lambda dims, attrs: 2.0 * dims["T"] * dims["s"] * dims["d"],
        summed="s",
    )
)


def mhc_expand(
    ctx: Context, streams: torch.Tensor, y: torch.Tensor, post: torch.Tensor, comb: torch.Tensor
) -> torch.Tensor:
    x, y = streams.to(ctx.compute), y.to(ctx.compute)
    mixed = torch.einsum("tjk,tjd->tkd", comb.to(ctx.compute), x)
    return mixed + post.to(ctx.compute)[:, :, None] * y[:, None]


register(
    OpSpec(
        "mhc_expand",
        "X'[k] = post[k] * y + sum_j comb[j, k] * X[j]: the sum runs over comb's FIRST index",
        (
            Arg("X", "T s d"),
            Arg("y", "T d"),
            Arg("post", "T s", dtype="f32"),
            Arg("comb", "T s s", dtype="f32"),
        ),
        (Arg("X_next", "T s d", dtype="like"),),
        mhc_expand,
        flops=lambda dims, attrs: 2.0 * dims["T"] * dims["s"] * dims["d"] * (dims["s"] + 1),
        summed="s",
    )
)
