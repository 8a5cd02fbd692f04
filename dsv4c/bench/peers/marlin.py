"""vLLM's Marlin grouped GEMMs beside the whole of a layer's experts.

Marlin: the two GEMMs alone, w13 and w2, on tokens that are sorted beforehand. Ours: choice of
experts, grouping, w13, SwiGLU, w2, the shared expert and the sum. For equal results the shared
expert's weights are zero and what Marlin leaves out is done in torch, untimed. A second row adds
the shared expert's two products, bf16 by cuBLAS, to Marlin's side; a third takes the shared expert
away from ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dsv4c.bench.peers import marlin_weights
from dsv4c.bench.peers.compare import LIBRARIES, missing
from dsv4c.bench.peers.library import LIMIT, MODELS, Kernels
from dsv4c.bench.peers.our_experts import OurExperts, Step, Weights, draw, kernel_names
from dsv4c.bench.peers.side_by_side import timed_rows
from dsv4c.bench.results import PeerRow
from dsv4c.ir.weight_codecs import dequantize

TOKENS = {"Flash": (1, 2, 4, 8, 16, 32, 64, 128, 256), "Pro": (1, 8, 64)}
E2M1 = 562949953487106  # vLLM's number of the weight type
SETS, CHECKED, L2 = 4, 6, 1e-2
SHARED, ROUTED = "the latter bf16, cuBLAS", "ours without a shared expert, too"
# What runs of (ours, Marlin, the shared expert, ours without it) on each side.
PARTS = ((0,), (1,), (1, 2), (3,))
BOUND = "relative L2 error of a token 1e-2, against float64"


def rows(folder: Path, kernels: Kernels) -> Iterator[PeerRow]:
    """Every model and number of tokens."""
    torch.ops.load_library(str(folder / LIBRARIES["marlin"]))
    for model in MODELS:
        whole, routed = (
            [name for name in kernel_names(model, shared) if name not in kernels]
            for shared in (True, False)
        )
        if whole:
            yield missing("Marlin", whole[0])
        else:
            yield from _rows(model, kernels, alone=not routed)
        torch.cuda.empty_cache()


def _rows(model: str, kernels: Kernels, alone: bool) -> Iterator[PeerRow]:
    make = torch.Generator("cuda").manual_seed(0)
    weights = draw(model, make)
    ours, theirs = OurExperts(model, weights, kernels, make), _Marlin(model, weights)
    mine = [ours, *([ours.routed(model, kernels)] if alone else [])]
    sides = [ours, theirs, _Shared(model), *mine[1:]]
    for tokens in TOKENS[model]:
        steps = [ours.step(tokens, make) for _ in range(SETS)]
        ratios = [_check(model, weights, steps[0], one, theirs) for one in mine]
        sets = [tuple(side.call(step) for side in sides) for step in steps]
        touched = sum(len(step.experts.unique()) for step in steps) / SETS
        _, _, hidden, width, _ = MODELS[model]
        moved = round(touched * 3 * hidden * width * 0.5625)
        facts = (f"{model}, B = {tokens}", None, None, moved)
        note = f"{touched:.0f} experts touched"
        compared = [
            (PeerRow("Marlin", *facts, *ratios[0], BOUND, note), 0, 1),
            (PeerRow("Marlin + shared expert", *facts, *ratios[0], BOUND, SHARED), 0, 2),
        ]
        if alone:
            row = PeerRow("Marlin, routed experts", *facts, *ratios[1], BOUND, ROUTED)
            compared.append((row, 3, 1))
        parts = PARTS[: len(sides)]
        yield from timed_rows(compared, sets, *(partial(_run, part) for part in parts))


class _Marlin:
    """The two grouped GEMMs, with weights in Marlin's order."""

    def __init__(self, model: str, weights: Weights) -> None:
        self.dims = MODELS[model]
        self.w13, self.w2 = (_marlin(one) for one in (weights.w13, weights.w2))
        self.work = torch.zeros(4 * 132, dtype=torch.int32, device="cuda")

    def call(self, step: Step) -> Callable[[], object]:
        """w13 on the tokens, then w2 on some activations."""
        width = self.dims[3]
        act = torch.randn(step.experts.numel(), width, device="cuda").bfloat16()
        pair = (self.gemm(step, step.x, True), self.gemm(step, act, False))
        return lambda: [gemm() for gemm in pair]

    def gemm(self, step: Step, a: Tensor, first: bool) -> Callable[[], Tensor]:
        """One of them: rows of `a` by pair; the second multiplies by the routing weight."""
        count, chosen, hidden, width, _ = self.dims
        k, n = (hidden, 2 * width) if first else (width, hidden)
        codes, scales, alpha = self.w13 if first else self.w2
        block = _block(step.experts, count)
        groups = aligned(step.experts, count, block)
        out = torch.empty(step.experts.numel(), n, dtype=torch.bfloat16, device="cuda")
        per_row = chosen if first else 1
        op = torch.ops._moe_C.moe_wna16_marlin_gemm

        def run() -> Tensor:
            weights = (codes, None, scales, None, alpha, None, None, None, self.work)
            how = (block, per_row, not first, E2M1, len(a), n, k, True, False, True, False)
            return op(a, out, *weights, *groups, step.weights, *how, -1, -1, -1)

        return run


class _Shared:
    """The shared expert's products in bf16."""

    def __init__(self, model: str) -> None:
        _, _, hidden, width, _ = MODELS[model]
        shapes = ((2 * width, hidden), (hidden, width))
        self.w13, self.w2 = (torch.randn(one, device="cuda").bfloat16() for one in shapes)

    def call(self, step: Step) -> Callable[[], object]:
        """Both, the second on some activations."""
        act = torch.randn(len(step.x), self.w2.shape[1], device="cuda").bfloat16()
        return lambda: [step.x @ self.w13.T, act @ self.w2.T]


def _run(parts: tuple[int, ...], calls: tuple[Callable[[], object], ...]) -> list[object]:
    return [calls[part]() for part in parts]


def _marlin(weights: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    codes, scales, scale_2 = weights
    factor = marlin_weights.rescale(scales)
    return (
        torch.stack([marlin_weights.repacked(one) for one in codes]),
        torch.stack([marlin_weights.scales(one, factor) for one in scales]),
        marlin_weights.global_scale(scale_2, factor),
    )


def _block(chosen: Tensor, count: int) -> int:
    """Rows of a tile, as vLLM chooses them."""
    each = chosen.numel() / count
    return next((b for b in (8, 16, 32, 48, 64) if each / b < 0.9), 64)


def aligned(
    chosen: Tensor, count: int, block: int, device: str = "cuda"
) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs sorted by expert and padded to tiles, the expert of each tile, the padded length.

    Args:
        chosen: experts [T, k].
        count: of all experts.
        block: rows of a tile.
        device: of the int32 results.
    """
    flat = chosen.flatten().tolist()
    pairs: list[int] = []
    owners: list[int] = []
    for expert in range(count):
        group = [i for i, e in enumerate(flat) if e == expert]
        group += [len(flat)] * (-len(group) % block)
        pairs += group
        owners += [expert] * (len(group) // block)

    def made(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    return made(pairs), made(owners), made([len(pairs)])


# --- equal results --------------------------------------------------------------------------


def _activated(gate_up: Tensor, width: int) -> Tensor:
    gate, up = gate_up[:, :width], gate_up[:, width:]
    return torch.nn.functional.silu(gate.clamp(max=LIMIT)) * up.clamp(-LIMIT, LIMIT)


def _check(
    model: str, weights: Weights, step: Step, ours: OurExperts, theirs: _Marlin
) -> tuple[float, float]:
    """Worst relative L2 error of a token over the bound, of both sides."""
    _, top_k, hidden, width, _ = MODELS[model]
    mine = ours.call(step)()
    gate_up = theirs.gemm(step, step.x, True)()
    act = _activated(gate_up.float(), width).bfloat16()
    peer = theirs.gemm(step, act, False)().float().view(-1, top_k, hidden).sum(1)
    worst = [0.0, 0.0]
    for token in range(min(CHECKED, len(step.x))):
        y = torch.zeros(hidden, dtype=torch.float64, device="cuda")
        x = step.x[token, None].double()
        for expert, weight in zip(
            step.experts[token].tolist(), step.weights[token].tolist(), strict=True
        ):
            w13, w2 = (_dense(one, expert) for one in (weights.w13, weights.w2))
            y += weight * (_activated(x @ w13.T, width) @ w2.T)[0]
        for side, found in enumerate((mine, peer)):
            error = float((found[token].double() - y).norm() / y.norm())
            worst[side] = max(worst[side], error / L2)
    return worst[0], worst[1]


def _dense(weights: tuple[Tensor, Tensor, Tensor], expert: int) -> Tensor:
    parts = tuple(one[expert] for one in weights)
    shape = (parts[0].shape[0], 2 * parts[0].shape[1])
    return dequantize("nvfp4", parts, shape).double()
