"""One decode step of a DeepSeek-V4 layer as a good torch user writes it for torch.compile.

Static shapes, no host synchronisation, one graph: projections with a common input are one matmul,
caches are bf16 tensors written in place, experts are gathered (one token) or a grouped matmul over
sorted tokens. Formulas: docs/architecture.md and transformers' `modeling_deepseek_v4`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import linear, silu, softplus


@dataclass(frozen=True)
class Dims:
    """Of one layer. `ratio` tokens make an entry; with an indexer `index_heads` is not 0."""

    heads: int
    width: int
    rope: int
    groups: int
    streams: int
    window: int
    ratio: int
    index_heads: int
    index_width: int
    index_topk: int
    top_k: int
    route_scale: float
    limit: float
    eps: float
    hc_eps: float
    sinkhorn: int


Weights = dict[str, Tensor]


class Compressor:
    """Rows of tokens that wait for their window, and the entries made of them.

    Args:
        dims: of the layer.
        width: of an entry.
        sequences: B.
        entries: room for them.
        like: device and dtype.
    """

    def __init__(self, dims: Dims, width: int, sequences: int, entries: int, like: Tensor) -> None:
        self.dims, self.width = dims, width
        # Overlapping windows keep two windows of two series; the others one of one.
        self.twice = 2 if dims.index_heads else 1
        rows, columns = self.twice * dims.ratio, self.twice * width
        self.kv = like.new_zeros(sequences, rows, columns)
        self.gate = like.new_full((sequences, rows, columns), -torch.inf, dtype=torch.float32)
        self.cache = like.new_zeros(sequences, entries, width)

    def add(
        self, kv: Tensor, gate: Tensor, pos: Tensor, w: Weights, name: str, freqs: Tensor
    ) -> None:
        """Put the step's rows in, and an entry where a window ends."""
        dims, ratio, width = self.dims, self.dims.ratio, self.width
        every = torch.arange(len(pos), device=pos.device)
        row = pos % self.kv.shape[1]
        self.kv[every, row] = kv
        self.gate[every, row] = gate.float() + w[f"{name}.ape"][pos % ratio]
        kvs, gates = self.kv, self.gate
        if self.twice == 2:
            # The window before gives its first series, this one its second.
            this = (pos // ratio % 2)[:, None] * ratio + torch.arange(ratio, device=pos.device)
            before = (this + ratio) % (2 * ratio)
            kvs = _both(kvs, before, this, width)
            gates = _both(gates, before, this, width)
        pooled = (kvs.float() * gates.softmax(1)).sum(1)
        entry = rms_norm(pooled, w[f"{name}.norm"], dims.eps)
        first = pos // ratio * ratio
        entry = rotated(entry, first[:, None] * freqs, dims.rope).to(kv.dtype)
        at = pos // ratio
        ended = ((pos + 1) % ratio == 0)[:, None]
        self.cache[every, at] = torch.where(ended, entry, self.cache[every, at])


def _both(rows: Tensor, before: Tensor, this: Tensor, width: int) -> Tensor:
    parts = ((before, slice(0, width)), (this, slice(width, None)))
    every = torch.arange(len(rows), device=rows.device)[:, None]
    return torch.cat([rows[every, index][..., part] for index, part in parts], 1)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """In float32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.float()


def rotated(x: Tensor, angles: Tensor, rope: int) -> Tensor:
    """The last `rope` dims of x turned pair by pair, in float32."""
    x = x.float()
    while angles.dim() < x.dim():
        angles = angles.unsqueeze(1)
    even, odd = x[..., -rope::2], x[..., -rope + 1 :: 2]
    cos, sin = angles.cos(), angles.sin()
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)
    return torch.cat((x[..., :-rope], turned), -1)


class TorchLayer:
    """A layer with its caches.

    Args:
        dims: its numbers.
        weights: by the names that `forward` uses; matrices in the dtype of the activations. `in`
            is all that multiplies attention's input, `q` all that multiplies the query's latent.
        rows: of the matrices joined in `in`.
        sequences: B.
        entries: room of each compressed cache.
        gather: experts by gathering the touched matrices, which pays for one token.

    Attributes:
        window: the last tokens' keys [B, window, width], token `pos` at `pos % window`.
        compressor, index: compressed entries for attention and for the indexer.
        taken: entries of the last step that attention took, i64 [B, k]; None without an indexer.
    """

    def __init__(
        self,
        dims: Dims,
        weights: Weights,
        rows: list[int],
        sequences: int,
        entries: int,
        gather: bool,
    ) -> None:
        self.dims, self.w, self.rows, self.gather = dims, weights, rows, gather
        like = weights["in"]
        self.window = like.new_zeros(sequences, dims.window, dims.width)
        self.taken: Tensor | None = None
        self.compressor = Compressor(dims, dims.width, sequences, entries, like)
        self.index = (
            Compressor(dims, dims.index_width, sequences, entries, like)
            if dims.index_heads
            else None
        )

    def forward(
        self,
        streams: Tensor,
        pos: Tensor,
        ids: Tensor | None = None,
        chosen: Tensor | None = None,
        experts: Tensor | None = None,
    ) -> Tensor:
        """Streams [B, streams, hidden] after the layer.

        Args:
            streams: before it.
            pos: i64 [B], position of each sequence's token.
            ids: i64 [B], the tokens, where the layer routes by them.
            chosen: entries that attention takes instead of the indexer's choice, i64 [B, k].
            experts: instead of the router's choice, i64 [B, top_k].
        """
        dims, w = self.dims, self.w
        post, comb, x = self._collapsed(streams, "attn")
        x = rms_norm(x, w["attn.norm"], dims.eps).to(streams.dtype)
        streams = _spread(streams, self._attention(x, pos, chosen), post, comb)
        post, comb, x = self._collapsed(streams, "ffn")
        x = rms_norm(x, w["ffn.norm"], dims.eps).to(streams.dtype)
        return _spread(streams, self._experts(x, ids, experts), post, comb)

    def _collapsed(self, streams: Tensor, site: str) -> tuple[Tensor, Tensor, Tensor]:
        dims, w, n = self.dims, self.w, self.dims.streams
        flat = streams.flatten(1).float()
        size = torch.rsqrt(flat.square().mean(-1, keepdim=True) + dims.eps)
        mix = linear(flat * size, w[f"{site}.fn"])
        mix = mix * w[f"{site}.scale"] + w[f"{site}.base"]
        pre = mix[:, :n].sigmoid() + dims.hc_eps
        post = 2 * mix[:, n : 2 * n].sigmoid()
        comb = mix[:, 2 * n :].unflatten(1, (n, n)).softmax(-1) + dims.hc_eps
        comb = comb / (comb.sum(-2, keepdim=True) + dims.hc_eps)
        for _ in range(dims.sinkhorn - 1):
            comb = comb / (comb.sum(-1, keepdim=True) + dims.hc_eps)
            comb = comb / (comb.sum(-2, keepdim=True) + dims.hc_eps)
        return post, comb, (pre.unsqueeze(-1) * streams.float()).sum(1)

    def _attention(self, x: Tensor, pos: Tensor, chosen: Tensor | None) -> Tensor:
        dims, w, dtype = self.dims, self.w, x.dtype
        every = torch.arange(len(x), device=x.device)
        angles = pos[:, None] * w["freqs"]
        q, kv, *more = linear(x, w["in"]).split(self.rows, 1)
        qs = linear(rms_norm(q, w["q_norm"], dims.eps).to(dtype), w["q"])
        q = qs[:, : dims.heads * dims.width].unflatten(1, (dims.heads, dims.width)).float()
        q = q * torch.rsqrt(q.square().mean(-1, keepdim=True) + dims.eps)
        q = rotated(q, angles, dims.rope).to(dtype)
        kv = rotated(rms_norm(kv, w["kv_norm"], dims.eps), angles, dims.rope).to(dtype)
        self.window[every, pos % dims.window] = kv
        self.compressor.add(more[0], more[1], pos, w, "compressor", w["freqs"])
        index_q = qs[:, dims.heads * dims.width :]
        rows, valid = self._entries(index_q, more, pos, chosen)
        seen = torch.arange(dims.window, device=x.device) <= pos[:, None]
        rows, valid = torch.cat((self.window, rows), 1), torch.cat((seen, valid), 1)
        scores = (q @ rows.mT).float() * dims.width**-0.5
        scores = scores.masked_fill(~valid[:, None], -torch.inf)
        sink = w["sink"].float()[None, :, None].expand(len(x), -1, 1)
        probs = torch.cat((scores, sink), -1).softmax(-1)[..., :-1].to(dtype)
        o = rotated(probs @ rows, -angles, dims.rope).to(dtype)
        z = torch.bmm(o.view(len(x), dims.groups, -1).transpose(0, 1), w["o_a"].mT)
        return linear(z.transpose(0, 1).flatten(1), w["o_b"])

    def _entries(
        self, q: Tensor, more: list[Tensor], pos: Tensor, chosen: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Compressed rows that attention takes, and which of them count."""
        dims, w, cache = self.dims, self.w, self.compressor.cache
        visible = ((pos + 1) // dims.ratio)[:, None]
        if self.index is None:
            return cache, torch.arange(cache.shape[1], device=pos.device) < visible
        self.index.add(more[2], more[3], pos, w, "index", w["freqs"])
        keys = self.index.cache
        heads = q.unflatten(1, (dims.index_heads, dims.index_width))
        q = rotated(heads, pos[:, None] * w["freqs"], dims.rope).to(q.dtype)
        scores = torch.relu((q @ keys.mT).float())
        scores = (scores * more[4].float().unsqueeze(-1)).sum(1)
        places = torch.arange(keys.shape[1], device=pos.device)
        scores = scores.masked_fill(places >= visible, -torch.inf)
        best = scores.topk(min(dims.index_topk, keys.shape[1])).indices
        self.taken = best = best if chosen is None else chosen
        index = best.clamp_min(0).unsqueeze(-1).expand(-1, -1, dims.width)
        return cache.gather(1, index), (best < visible) & (best >= 0)

    def _experts(self, x: Tensor, ids: Tensor | None, chosen: Tensor | None) -> Tensor:
        dims, w = self.dims, self.w
        scores = softplus(linear(x.float(), w["gate"])).sqrt()
        if chosen is None:
            chosen = (
                (scores + w["bias"]).topk(dims.top_k).indices
                if "bias" in w
                else w["table"][cast(Tensor, ids)]
            )
        weights = scores.gather(1, chosen)
        weights = weights / (weights.sum(1, keepdim=True) + 1e-20) * dims.route_scale
        routed = self._gathered if self.gather else self._grouped
        act = self._activated(linear(x, w["shared_w13"])).to(x.dtype)
        return routed(x, chosen, weights) + linear(act, w["shared_w2"])

    def _activated(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.float().chunk(2, -1)
        return silu(gate.clamp(max=self.dims.limit)) * up.clamp(-self.dims.limit, self.dims.limit)

    def _gathered(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        # Products and sums, which Inductor fuses with the gather: no copy of the matrices.
        gate_up = (x[:, None, None].float() * self.w["w13"][chosen]).sum(-1)
        act = (self._activated(gate_up) * weights.unsqueeze(-1)).to(x.dtype)
        return (act.unsqueeze(2).float() * self.w["w2"][chosen]).sum(-1).sum(1).to(x.dtype)

    def _grouped(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        count, top_k = len(self.w["w13"]), chosen.shape[1]
        flat = chosen.flatten()
        order = flat.argsort(stable=True)
        every = torch.arange(count, device=x.device)
        ends = (flat[:, None] == every).sum(0).cumsum(0).to(torch.int32)
        gate_up = _grouped_mm(x[order // top_k], self.w["w13"].mT, ends)
        act = self._activated(gate_up) * weights.flatten()[order, None]
        down = _grouped_mm(act.to(x.dtype), self.w["w2"].mT, ends)
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=x.device))
        return down[back].view(len(x), top_k, -1).sum(1)


def _grouped_mm(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    product = torch._grouped_mm  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
    return product(x, weight, offs=ends)


def _spread(streams: Tensor, y: Tensor, post: Tensor, comb: Tensor) -> Tensor:
    mixed = comb.mT @ streams.float()
    return (mixed + post.unsqueeze(-1) * y.float().unsqueeze(1)).to(streams.dtype)
