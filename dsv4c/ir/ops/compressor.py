"""The compressor: softmax pooling of windows of tokens into one entry (deepseek-v4.md 3.4, 4.1)."""

from __future__ import annotations

import torch

from dsv4c.ir.op import Arg, OpSpec, register
from dsv4c.ir.types import RowsType
from dsv4c.ir.values import Context, State, Weight


def compress_pool(
    ctx: Context,
    rows: State,
    kv: torch.Tensor,
    gate: torch.Tensor,
    ape: Weight,
    pos: torch.Tensor,
    slot: torch.Tensor,
    start: torch.Tensor,
    ratio: int,
    width: int,
) -> torch.Tensor:
    """A window's rows come from this step's tokens where they are in it, else from the state."""
    assert isinstance(rows.type, RowsType)
    pos, slot, start = pos.long(), slot.long(), start.long()
    z = gate.to(ctx.compute) + ape.dense(ctx.compute)[pos % ratio]
    fresh = torch.cat((kv.to(ctx.compute), z), -1)
    pooled = torch.zeros(len(pos), width, dtype=ctx.compute, device=pos.device)
    done = (((pos + 1) % ratio == 0) & (slot >= 0)).nonzero()[:, 0]
    if len(done):
        pooled[done] = _pool(fresh, rows, pos, slot, start, done, ratio, width)
    _store(rows, fresh, pos, slot)
    return pooled


def _pool(
    fresh: torch.Tensor,
    rows: State,
    pos: torch.Tensor,
    slot: torch.Tensor,
    start: torch.Tensor,
    done: torch.Tensor,
    ratio: int,
    width: int,
) -> torch.Tensor:
    total, half = rows.buffer.shape[1], rows.buffer.shape[2] // 2
    length = ratio * (half // width)
    p = pos[done, None] + torch.arange(1 - length, 1, device=pos.device)
    first = start[done, None]
    here = p >= pos[first]
    row = torch.where(here, first + p - pos[first], 0)
    window = torch.where(
        here[..., None], fresh[row], rows.buffer[slot[done, None], p % total].to(fresh.dtype)
    )
    kv, z = window[..., :half], window[..., half:]
    if length > ratio:  # overlapping windows: the previous one gives its first columns
        kv = torch.cat((kv[:, :ratio, :width], kv[:, ratio:, width:]), 1)
        z = torch.cat((z[:, :ratio, :width], z[:, ratio:, width:]), 1)
    missing = (p < 0)[..., None]
    z = z.masked_fill(missing, -torch.inf)
    return (z.softmax(1) * kv.masked_fill(missing, 0)).sum(1)


def _store(rows: State, fresh: torch.Tensor, pos: torch.Tensor, slot: torch.Tensor) -> None:
    """Keep each row unless a later token of the same sequence and step takes its place."""
    total = rows.buffer.shape[1]
    kept = slot >= 0
    kept[:-total] &= slot[:-total] != slot[total:]
    rows.buffer[slot[kept], pos[kept] % total] = fresh[kept].to(rows.buffer.dtype)


register(
    OpSpec(
        "compress_pool",
        "entry[c] = sum_r softmax_r(gate + ape)[r, c] * kv[r, c] at tokens that end a window, else 0",
        (
            Arg("rows", role="rows"),
            Arg("kv", "T k", dtype="f32"),
            Arg("gate", "T k", dtype="f32"),
            Arg("ape", "m k", "weight"),
            Arg("pos", "T", dtype="i32"),
            Arg("slot", "T", dtype="i32"),
            Arg("start", "T", dtype="i32"),
        ),
        (Arg("pooled", "T width", dtype="attr"), Arg("rows", role="rows")),
        compress_pool,
        attrs={"ratio": int, "width": int, "dtype": "bf16"},
        flops=lambda dims, attrs: 6.0 * dims["T"] * dims["k"],
        traffic=lambda dims, attrs: 16.0 * dims["T"] * dims["k"],
        check=lambda types, attrs: (
            ""
            if types[3].dims[0] == attrs["ratio"]  # pyright: ignore
            else "attribute ratio differs from the position bias's rows"
        ),
    )
)
