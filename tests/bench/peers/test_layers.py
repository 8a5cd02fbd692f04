"""The torch layer of the bench against transformers' own, token by token."""

from __future__ import annotations

import pytest
import torch

from dsv4c.bench.peers.torch_layer import Dims, TorchLayer, Weights
from dsv4c.bench.peers.transformers_layer import TransformersLayer
from dsv4c.ir.ops.rope import rope_frequencies

HIDDEN, Q_RANK, O_RANK, EXPERTS, INTER, VOCAB = 24, 20, 10, 7, 12, 50


def dims(kind: str) -> Dims:
    csa = kind == "csa"
    return Dims(
        heads=4,
        width=32,
        rope=8,
        groups=2,
        streams=3,
        window=5,
        ratio=4 if csa else 8,
        index_heads=6 if csa else 0,
        index_width=16,
        index_topk=3,
        top_k=2,
        route_scale=1.5,
        limit=1.0,
        eps=1e-6,
        hc_eps=1e-6,
        sinkhorn=4,
    )


def make(kind: str, hashed: bool, gather: bool, sequences: int) -> TorchLayer:
    d = dims(kind)
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw) * shape[-1] ** -0.5

    def ones(count: int) -> torch.Tensor:
        return 1 + 0.3 * torch.randn(count, generator=draw)

    twice = 2 if kind == "csa" else 1
    rows = [Q_RANK, d.width, twice * d.width, twice * d.width]
    if kind == "csa":
        rows += [2 * d.index_width, 2 * d.index_width, d.index_heads]
    count = d.streams * (d.streams + 2)
    sizes = torch.tensor([d.streams, d.streams, d.streams**2])
    w: Weights = {
        "in": normal(sum(rows), HIDDEN),
        "q": normal(d.heads * d.width + d.index_heads * d.index_width, Q_RANK),
        "q_norm": ones(Q_RANK),
        "kv_norm": ones(d.width),
        "freqs": rope_frequencies(d.rope, 160000.0, 16.0, 64, 32.0, 1.0),
        "sink": normal(d.heads),
        "o_a": normal(d.groups, O_RANK, d.heads * d.width // d.groups),
        "o_b": normal(HIDDEN, d.groups * O_RANK),
        "compressor.ape": normal(d.ratio, twice * d.width),
        "compressor.norm": ones(d.width),
        "index.ape": normal(d.ratio, 2 * d.index_width),
        "index.norm": ones(d.index_width),
        "gate": normal(EXPERTS, HIDDEN),
        "w13": normal(EXPERTS, 2 * INTER, HIDDEN),
        "w2": normal(EXPERTS, HIDDEN, INTER),
        "shared_w13": normal(2 * INTER, HIDDEN),
        "shared_w2": normal(HIDDEN, INTER),
    }
    for site in ("attn", "ffn"):
        w[f"{site}.fn"] = normal(count, d.streams * HIDDEN)
        w[f"{site}.base"] = normal(count)
        w[f"{site}.scale"] = ones(3).repeat_interleave(sizes)
        w[f"{site}.norm"] = ones(HIDDEN)
    if hashed:
        w["table"] = torch.rand(VOCAB, EXPERTS, generator=draw).topk(d.top_k).indices
    else:
        w["bias"] = normal(EXPERTS)
    return TorchLayer(d, w, rows, sequences, 8, gather)


@pytest.mark.parametrize(
    ("kind", "hashed", "gather"),
    [("csa", False, True), ("csa", True, False), ("hca", False, False), ("hca", True, True)],
)
def test_decode_equals_transformers(kind: str, hashed: bool, gather: bool) -> None:
    layer = make(kind, hashed, gather, 2)
    other = TransformersLayer(layer, 0)
    draw = torch.Generator().manual_seed(1)
    steps = 26
    worst = 0.0
    with torch.inference_mode():
        for position in range(steps):
            streams = torch.randn(2, 3, HIDDEN, generator=draw)
            ids = torch.randint(0, VOCAB, (2,), generator=draw)
            pos = torch.full((2,), position)
            wanted = other.forward(streams, pos, ids)
            worst = max(worst, float((layer.forward(streams, pos, ids) - wanted).abs().max()))
            if position == 15:
                other = TransformersLayer(layer, 16)
    assert worst < 2e-5
