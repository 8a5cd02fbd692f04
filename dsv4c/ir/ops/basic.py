"""Embedding, linears, RMSNorm and moves of rows."""

from __future__ import annotations

import torch

from dsv4c.ir.op import Arg, OpSpec, register
from dsv4c.ir.values import Context, Weight


def embed(ctx: Context, ids: torch.Tensor, table: Weight) -> torch.Tensor:
    return table.rows(ids, ctx.compute)


register(
    OpSpec(
        "embed",
        "y[t] = table[ids[t]]",
        (Arg("ids", "T", dtype="i32"), Arg("table", "V d", "weight")),
        (Arg("y", "T d", dtype="attr"),),
        embed,
        attrs={"dtype": "bf16"},
        traffic=lambda dims, attrs: dims["weight_bytes"] * (dims["T"] / dims["V"] - 1),
    )
)


def linear(ctx: Context, x: torch.Tensor, w: Weight) -> torch.Tensor:
    return x.to(ctx.compute) @ w.dense(ctx.compute).T


register(
    OpSpec(
        "linear",
        "y = x @ w.T with exactly decoded weights, accumulated in fp32",
        (Arg("x", "*b k"), Arg("w", "n k", "weight")),
        (Arg("y", "*b n", dtype="attr"),),
        linear,
        attrs={"dtype": "bf16"},
        flops=lambda dims, attrs: 2.0 * dims["*b"] * dims["n"] * dims["k"],
        summed="k",
    )
)


def grouped_linear(ctx: Context, x: torch.Tensor, w: Weight) -> torch.Tensor:
    groups, k = x.shape[-2:]
    weight = w.dense(ctx.compute).view(groups, -1, k)
    return torch.einsum("tgk,gnk->tgn", x.to(ctx.compute), weight).flatten(1)


register(
    OpSpec(
        "grouped_linear",
        "y[t, g*n + i] = sum_k x[t, g, k] * w[g*n + i, k]: one weight block per group",
        (Arg("x", "T g k"), Arg("w", "n k", "weight")),
        (Arg("y", "T n", dtype="attr"),),
        grouped_linear,
        attrs={"dtype": "bf16"},
        flops=lambda dims, attrs: 2.0 * dims["T"] * dims["n"] * dims["k"],
        check=lambda types, attrs: (
            ""
            if types[1].dims[0] % types[0].dims[1] == 0  # pyright: ignore
            else f"{types[1]} does not divide into {types[0]} groups"
        ),
        summed="k",
    )
)


def rms_norm(ctx: Context, x: torch.Tensor, w: Weight, eps: float) -> torch.Tensor:
    return head_norm(ctx, x, eps) * w.dense(ctx.compute)


def head_norm(ctx: Context, x: torch.Tensor, eps: float) -> torch.Tensor:
    x = x.to(ctx.compute)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


register(
    OpSpec(
        "rms_norm",
        "y = w * x * rsqrt(mean(x^2) + eps) over the last dim",
        (Arg("x", "*b d"), Arg("w", "d", "weight")),
        (Arg("y", "*b d", dtype="like"),),
        rms_norm,
        attrs={"eps": 1e-6},
        flops=lambda dims, attrs: 4.0 * dims["*b"] * dims["d"],
    )
)
register(
    OpSpec(
        "head_norm",
        "y = x * rsqrt(mean(x^2) + eps) over the last dim: RMSNorm without a weight, per head",
        (Arg("x", "*b d"),),
        (Arg("y", "*b d", dtype="like"),),
        head_norm,
        attrs={"eps": 1e-6},
        flops=lambda dims, attrs: 3.0 * dims["*b"] * dims["d"],
    )
)


def view(ctx: Context, x: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return x.reshape(x.shape[0], *shape)


def _view_check(types: object, attrs: object) -> str:
    (type_,), shape = types, attrs["shape"]  # pyright: ignore
    sizes = [1, 1]
    for i, dims in enumerate((type_.dims[1:], shape)):  # pyright: ignore
        for dim in dims:  # pyright: ignore
            sizes[i] *= dim  # pyright: ignore
    return "" if sizes[0] == sizes[1] else f"{type_} cannot be viewed as [T, {shape}]"


register(
    OpSpec(
        "view",
        "the same memory, the dims after the first regrouped to `shape`",
        (Arg("x", "T *b", dtype="any"),),
        (Arg("y", "T shape", dtype="like"),),
        view,
        attrs={"shape": tuple},
        check=_view_check,
    )
)


def take_rows(ctx: Context, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return x[rows]


register(
    OpSpec(
        "take_rows",
        "y[r] = x[rows[r]]: the rows whose logits are wanted",
        (Arg("x", "T *b"), Arg("rows", "R", dtype="i32")),
        (Arg("y", "R *b", dtype="like"),),
        take_rows,
    )
)


def concat(ctx: Context, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.cat((a, b), 1)


register(
    OpSpec(
        "concat",
        "y = a and b one after the other along dim 1",
        (Arg("a", "T m *b", dtype="any"), Arg("b", "T n *b", dtype="any")),
        (Arg("y", "T m+n *b", dtype="like"),),
        concat,
    )
)
