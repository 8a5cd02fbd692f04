"""Lightning indexer: Hadamard and FP4 of its vectors, scores, exact top-k (deepseek-v4.md 3.5)."""

from __future__ import annotations

import torch

from dsv4c.ir import formats
from dsv4c.ir.op import Arg, OpSpec, register
from dsv4c.ir.ops.attention import layout, visible_entries
from dsv4c.ir.values import Context, State


def hadamard(ctx: Context, x: torch.Tensor) -> torch.Tensor:
    return formats.hadamard(x.to(ctx.compute))


register(
    OpSpec(
        "hadamard",
        "y = x @ H * n^-0.5 over the last dim, H the Sylvester Walsh-Hadamard matrix",
        (Arg("x", "*b n"),),
        (Arg("y", "*b n", dtype="like"),),
        hadamard,
        flops=lambda dims, attrs: dims["*b"] * dims["n"] * max(dims["n"].bit_length() - 1, 1.0),
    )
)


def fake_quant(ctx: Context, x: torch.Tensor, block: int) -> torch.Tensor:
    return formats.fake_quant_mxfp4(x.float(), block)


register(
    OpSpec(
        "fake_quant",
        "values rounded to MXFP4 (E2M1 with a power-of-two scale per block), kept as floats",
        (Arg("x", "*b n"),),
        (Arg("y", "*b n", dtype="like"),),
        fake_quant,
        attrs={"block": 32},
        flops=lambda dims, attrs: 4.0 * dims["*b"] * dims["n"],
    )
)


def index_scores(
    ctx: Context,
    q: torch.Tensor,
    weights: torch.Tensor,
    cache: State,
    pos: torch.Tensor,
    slot: torch.Tensor,
    block_table: torch.Tensor,
    ratio: int,
    page: int,
    scale: float,
) -> torch.Tensor:
    index = visible_entries(ctx, pos, slot, block_table, ratio, page)
    scores = torch.full(index.shape, -torch.inf, dtype=ctx.compute, device=q.device)
    for s in slot.unique().tolist():
        tokens = (slot == s).nonzero()[:, 0]
        seen = index[tokens[pos[tokens].argmax()]]
        keys = layout(cache).gather(cache.buffer, seen.long()).to(ctx.compute)
        dots = torch.einsum("thd,sd->ths", q[tokens].to(ctx.compute), keys).relu()
        scores[tokens] = torch.einsum("ths,th->ts", dots, weights[tokens].to(ctx.compute)) * scale
    return scores.masked_fill((index < 0) | scores.isnan(), -torch.inf)


register(
    OpSpec(
        "index_scores",
        "I[t, s] = scale * sum_h w[t, h] * relu(q[t, h] . key[s]) over visible entries; -inf elsewhere"
        " and where that is NaN",
        (
            Arg("q", "T h d"),
            Arg("weights", "T h"),
            Arg("cache", role="cache"),
            Arg("pos", "T", dtype="i32"),
            Arg("slot", "T", dtype="i32"),
            Arg("block_table", "S P", dtype="i32"),
        ),
        (Arg("scores", "T page*P", dtype="f32"),),
        index_scores,
        attrs={"ratio": int, "page": int, "scale": float},
        summed="d",
        masked=True,
        roundings=lambda attrs: 2,
        flops=lambda dims, attrs: (
            2.0 * dims["T"] * dims["P"] * dims["page"] * dims["h"] * (dims["d"] + 1)
        ),
        traffic=lambda dims, attrs: (
            1.0 * dims["T"] * dims["P"] * dims["page"] * dims["entry_bytes"]
        ),
    )
)


def topk_entries(
    ctx: Context,
    scores: torch.Tensor,
    pos: torch.Tensor,
    slot: torch.Tensor,
    block_table: torch.Tensor,
    ratio: int,
    page: int,
    k: int,
) -> torch.Tensor:
    n = min(k, scores.shape[1])
    index = visible_entries(ctx, pos, slot, block_table, ratio, page)
    # sort would put numbers that are none first
    best = scores.masked_fill((index < 0) | scores.isnan(), -torch.inf)
    best, entry = best.sort(dim=1, descending=True, stable=True)
    entry = entry.masked_fill(best == -torch.inf, index.shape[1])[:, :n].sort(dim=1).values
    index = torch.nn.functional.pad(index, (0, 1), value=-1).gather(1, entry)
    return torch.nn.functional.pad(index, (0, k - n), value=-1)


register(
    OpSpec(
        "topk_entries",
        "paged entries of the k best scores among those visible, in their own order, then -1; ties to"
        " the lowest entry, never one whose score is -inf or NaN",
        (
            Arg("scores", "T E", dtype="f32"),
            Arg("pos", "T", dtype="i32"),
            Arg("slot", "T", dtype="i32"),
            Arg("block_table", "S P", dtype="i32"),
        ),
        (Arg("index", "T k", dtype="i32"),),
        topk_entries,
        attrs={"ratio": int, "page": int, "k": int},
        flops=lambda dims, attrs: 2.0 * dims["T"] * dims["E"],
    )
)
