"""Sliding-window and compressed KV attention: where entries lie, inserts, gathers, softmax, values.

A global entry index is page * layout.page + offset; -1 means no entry (deepseek-v4.md 3.6, 4).
"""

from __future__ import annotations

import torch

from dsv4c.ir.cache import CacheLayout
from dsv4c.ir.op import Arg, OpSpec, register
from dsv4c.ir.types import CacheType, TensorType, Type
from dsv4c.ir.values import Context, State, Weight

_POS = (Arg("pos", "T", dtype="i32"), Arg("slot", "T", dtype="i32"))
_PAGED = (*_POS, Arg("block_table", "S P", dtype="i32"))


def window_slots(ctx: Context, pos: torch.Tensor, slot: torch.Tensor, ring: int) -> torch.Tensor:
    return torch.where(slot < 0, -1, slot * ring + pos % ring)


register(
    OpSpec(
        "window_slots",
        "the entry that position p of a slot takes in its ring: slot * ring + p mod ring",
        _POS,
        (Arg("index", "T", dtype="i32"),),
        window_slots,
        attrs={"ring": int},
    )
)


def window_entries(
    ctx: Context, pos: torch.Tensor, slot: torch.Tensor, ring: int, window: int
) -> torch.Tensor:
    steps = torch.arange(window, device=pos.device)
    p = (pos[:, None] - window + 1).clamp(min=0) + steps
    index = slot[:, None] * ring + p % ring
    return torch.where((p <= pos[:, None]) & (slot[:, None] >= 0), index, -1)


register(
    OpSpec(
        "window_entries",
        "ring entries of positions max(0, p - window + 1) .. p, then -1",
        _POS,
        (Arg("index", "T window", dtype="i32"),),
        window_entries,
        attrs={"ring": int, "window": int},
    )
)


def entry_slots(
    ctx: Context,
    pos: torch.Tensor,
    slot: torch.Tensor,
    block_table: torch.Tensor,
    ratio: int,
    page: int,
) -> torch.Tensor:
    entry = pos // ratio
    index = block_table[slot, entry // page] * page + entry % page
    return torch.where(((pos + 1) % ratio == 0) & (slot >= 0), index, -1)


register(
    OpSpec(
        "entry_slots",
        "the paged entry that position p completes: entry p // ratio if ratio divides p + 1, else -1",
        _PAGED,
        (Arg("index", "T", dtype="i32"),),
        entry_slots,
        attrs={"ratio": int, "page": int},
    )
)


def visible_entries(
    ctx: Context,
    pos: torch.Tensor,
    slot: torch.Tensor,
    block_table: torch.Tensor,
    ratio: int,
    page: int,
) -> torch.Tensor:
    pages = block_table[slot][:, :, None] * page + torch.arange(page, device=pos.device)
    index = pages.flatten(1)
    entry = torch.arange(index.shape[1], device=pos.device)
    seen = entry < torch.div(pos + 1, ratio, rounding_mode="floor")[:, None]
    return torch.where(seen & (slot[:, None] >= 0), index, -1)


register(
    OpSpec(
        "visible_entries",
        "every compressed entry w < (p + 1) // ratio of the token's sequence, then -1",
        _PAGED,
        (Arg("index", "T page*P", dtype="i32"),),
        visible_entries,
        attrs={"ratio": int, "page": int},
    )
)


def insert_rows(ctx: Context, cache: State, rows: torch.Tensor, index: torch.Tensor) -> tuple[()]:
    layout(cache).insert(cache.buffer, layout(cache).encode(rows), index.long())
    return ()


def layout(state: State) -> CacheLayout:
    """The byte layout of a cache state."""
    assert isinstance(state.type, CacheType)
    return state.type.layout


def _widths(types: list[Type], cache: int, rows: int) -> str:
    kind, tensor = types[cache], types[rows]
    assert isinstance(kind, CacheType)
    assert isinstance(tensor, TensorType)
    if tensor.dims[-1] == kind.layout.width:
        return ""
    return f"rows of {tensor.dims[-1]} for a cache of width {kind.layout.width}"


register(
    OpSpec(
        "insert_rows",
        "cache[index[t]] = rows[t] encoded in the cache's format; index -1 stores nothing",
        (Arg("cache", role="cache"), Arg("rows", "T c"), Arg("index", "T", dtype="i32")),
        (Arg("cache", role="cache"),),
        insert_rows,
        traffic=lambda dims, attrs: 1.0 * dims["T"] * dims["entry_bytes"],
        check=lambda types, attrs: _widths(list(types), 0, 1),
    )
)


def gather_rows(ctx: Context, cache: State, index: torch.Tensor, width: int) -> torch.Tensor:
    return layout(cache).gather(cache.buffer, index.long())


register(
    OpSpec(
        "gather_rows",
        "rows[t, j] = cache[index[t, j]] decoded; zeros where the index is -1",
        (Arg("cache", role="cache"), Arg("index", "T K", dtype="i32")),
        (Arg("rows", "T K width", dtype="attr"),),
        gather_rows,
        attrs={"width": int, "dtype": "bf16"},
        traffic=lambda dims, attrs: 1.0 * dims["T"] * dims["K"] * dims["entry_bytes"],
        check=lambda types, attrs: (
            ""
            if types[0].layout.width == attrs["width"]  # pyright: ignore
            else "attribute width differs from the cache's"
        ),
    )
)


def attention_scores(
    ctx: Context, q: torch.Tensor, rows: torch.Tensor, index: torch.Tensor, scale: float
) -> torch.Tensor:
    scores = torch.einsum("thc,tkc->thk", q.to(ctx.compute), rows.to(ctx.compute)) * scale
    return scores.masked_fill(index[:, None] < 0, -torch.inf)


register(
    OpSpec(
        "attention_scores",
        "s[t, h, j] = scale * q[t, h] . rows[t, j]; -inf where the index is -1",
        (Arg("q", "T H c"), Arg("rows", "T K c"), Arg("index", "T K", dtype="i32")),
        (Arg("scores", "T H K", dtype="f32"),),
        attention_scores,
        attrs={"scale": float},
        flops=lambda dims, attrs: 2.0 * dims["T"] * dims["H"] * dims["K"] * dims["c"],
        summed="c",
        masked=True,
    )
)


def sink_softmax(ctx: Context, scores: torch.Tensor, sink: Weight) -> torch.Tensor:
    logits = sink.dense(ctx.compute)[None, :, None].expand(scores.shape[0], -1, 1)
    return torch.cat((scores.to(ctx.compute), logits), -1).softmax(-1)[..., :-1]


register(
    OpSpec(
        "sink_softmax",
        "p[j] = exp(s[j]) / (sum_j exp(s[j]) + exp(sink[h])): the sink only adds to the denominator",
        (Arg("scores", "T H K", dtype="f32"), Arg("sink", "H", "weight")),
        (Arg("probs", "T H K", dtype="f32"),),
        sink_softmax,
        flops=lambda dims, attrs: 5.0 * dims["T"] * dims["H"] * dims["K"],
    )
)


def attention_values(ctx: Context, probs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return torch.einsum("thk,tkc->thc", probs.to(ctx.compute), rows.to(ctx.compute))


register(
    OpSpec(
        "attention_values",
        "o[t, h] = sum_j p[t, h, j] * rows[t, j]: keys are the values too",
        (Arg("probs", "T H K", dtype="f32"), Arg("rows", "T K c")),
        (Arg("o", "T H c", dtype="attr"),),
        attention_values,
        attrs={"dtype": "bf16"},
        flops=lambda dims, attrs: 2.0 * dims["T"] * dims["H"] * dims["K"] * dims["c"],
        summed="K",
    )
)
