"""vLLM's Marlin grouped GEMMs beside the whole of a layer's experts.

Marlin: the two GEMMs alone, w13 and w2, on tokens that are sorted beforehand. Ours: choice of
experts, grouping, w13, SwiGLU, w2, the shared expert and the sum. For equal results the shared
expert's weights are zero and what Marlin leaves out is done in torch, untimed. A second row adds
the shared expert's two products, bf16 by cuBLAS, to Marlin's side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dsv4c.bench.peers import marlin_weights
from dsv4c.bench.peers.compare import LIBRARIES, PeerRow, missing
from dsv4c.bench.peers.library import FAMILIES, KINDS, LIMIT, MODELS, Kernels, experts
from dsv4c.bench.peers.side_by_side import side_by_side
from dsv4c.codegen.kernels import _moe, moe_down, router
from dsv4c.codegen.packing import packing
from dsv4c.ir.weight_codecs import dequantize

TOKENS = {"Flash": (1, 2, 4, 8, 16, 32, 64, 128, 256), "Pro": (1, 8, 64)}
E2M1 = 562949953487106  # vLLM's number of the weight type
SETS, CHECKED, L2 = 4, 6, 1e-2
# What runs of (ours, Marlin, the shared expert) on either side.
PARTS = ((0,), (1,), (1, 2))
BOUND = "relative L2 error of a token 1e-2, against float64"


@dataclass(frozen=True)
class Weights:
    """Routed experts as stored: codes, scales, scale_2 of w1 and w3 together, and of w2."""

    w13: tuple[Tensor, Tensor, Tensor]
    w2: tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Step:
    """Tokens and what the router makes of them."""

    x: Tensor
    experts: Tensor
    weights: Tensor


def rows(folder: Path, kernels: Kernels) -> Iterator[PeerRow]:
    """Every model and number of tokens."""
    torch.ops.load_library(str(folder / LIBRARIES["marlin"]))
    for model in MODELS:
        absent = [name for name in kernel_names(model) if name not in kernels]
        if absent:
            yield missing("Marlin", absent[0])
        else:
            yield from _rows(model, kernels)
        torch.cuda.empty_cache()


def _rows(model: str, kernels: Kernels) -> Iterator[PeerRow]:
    make = torch.Generator("cuda").manual_seed(0)
    weights = _draw(model, make)
    ours, theirs = _Ours(model, weights, kernels, make), _Marlin(model, weights)
    shared = _Shared(model)
    for tokens in TOKENS[model]:
        steps = [ours.step(tokens, make) for _ in range(SETS)]
        ratios = _check(model, weights, steps[0], ours, theirs)
        sets = [(ours.call(step), theirs.call(step), shared.call(step)) for step in steps]
        us, alone, more = side_by_side(sets, *(partial(_run, part) for part in PARTS))
        touched = sum(len(step.experts.unique()) for step in steps) / SETS
        _, _, hidden, width, _ = MODELS[model]
        moved = round(touched * 3 * hidden * width * 0.5625)
        case, note = f"{model}, B = {tokens}", f"{touched:.0f} experts touched"
        yield PeerRow("Marlin", case, us, alone, moved, *ratios, BOUND, note)
        note = "the latter bf16, cuBLAS"
        yield PeerRow("Marlin + shared expert", case, us, more, moved, *ratios, BOUND, note)


def _draw(model: str, make: torch.Generator) -> Weights:
    count, _, hidden, width, _ = MODELS[model]

    def matrices(rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
        def draw(low: int, high: int, wide: int) -> Tensor:
            shape = (count, rows, wide)
            return torch.randint(low, high, shape, generator=make, device="cuda", dtype=torch.uint8)

        # Scales of 1 to 3.5 and codes of 3 on average: rows whose products are around 1.
        size = torch.rand(count, generator=make, device="cuda") * 0.5 + 0.75
        return (
            draw(0, 256, columns // 2),
            draw(0x38, 0x46, columns // 16),
            size / (6 * math.sqrt(columns)),
        )

    return Weights(matrices(2 * width, hidden), matrices(hidden, width))


def kernel_names(model: str) -> list[str]:
    """Of router, gate and up, down."""
    params = experts(model, "sm_90a")
    return [
        FAMILIES[kind].kernel_name(one, "sm_90a") for kind, one in zip(KINDS, params, strict=True)
    ]


class _Ours:
    """The three kernels of a layer's experts, with packed weights."""

    def __init__(
        self, model: str, weights: Weights, kernels: Kernels, make: torch.Generator
    ) -> None:
        self.dims = count, _, hidden, width, _ = MODELS[model]
        self.params = experts(model, "sm_90a")
        self.kernels = [kernels[name] for name in kernel_names(model)]
        gate = torch.randn(count, hidden, generator=make, device="cuda")
        self.gate = (gate * (2 / math.sqrt(hidden))).bfloat16()
        self.bias = 8.08 + 0.1 * torch.randn(count, generator=make, device="cuda")
        w13, w2 = weights.w13, weights.w2
        halves = [[t[:, :width], t[:, width:]] for t in w13[:2]]
        self.w13 = [*_packed(halves, True), torch.stack([w13[2]] * 2, 1)]
        self.w2 = [*_packed([[t] for t in w2[:2]], False), w2[2]]
        self.shared = [_zeros(2 * width, hidden, True), _zeros(hidden, width, False)]

    def step(self, tokens: int, make: torch.Generator) -> Step:
        """Random tokens, routed."""
        x = torch.randn(tokens, self.dims[2], generator=make, device="cuda").bfloat16()
        routed = self._buffers(x)[0]
        self.kernels[0](x, self.gate, self.bias, *routed, *self._workspaces(x)[0])
        return Step(x, routed[0], routed[1])

    def call(self, step: Step) -> Callable[[], Tensor]:
        """The whole of it, on buffers of its own."""
        routed, acts, y = self._buffers(step.x)
        spaces = self._workspaces(step.x)

        def run() -> Tensor:
            self.kernels[0](step.x, self.gate, self.bias, *routed, *spaces[0])
            _, weights, order, offsets = routed
            given = (step.x, weights, order, offsets, *self.w13, *self.shared[0])
            self.kernels[1](*given, *acts)
            given = (acts[0], order, offsets, acts[1], *self.w2, *self.shared[1])
            self.kernels[2](*given, y, *spaces[1])
            return y

        return run

    def _buffers(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        count, top_k, hidden, width, _ = self.dims
        tokens = len(x)

        def empty(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.empty(shape, dtype=dtype, device="cuda")

        pairs = (tokens, top_k)
        routed = [empty(t, *pairs) for t in (torch.int32, torch.float32, torch.int32)]
        acts = [empty(torch.bfloat16, *pairs, width), empty(torch.bfloat16, tokens, width)]
        return (
            [*routed, empty(torch.int32, count + 1)],
            acts,
            empty(torch.bfloat16, tokens, hidden),
        )

    def _workspaces(self, x: Tensor) -> list[list[Tensor]]:
        """Of the router and of the down projection."""
        types = {"f32": torch.float32, "i32": torch.int32}
        wanted = (router.workspaces(self.params[0]), moe_down.workspaces(self.params[2]))
        return [
            [
                torch.zeros(
                    int(str(one.dims[0]).removesuffix("*T")) * len(x),
                    dtype=types[one.dtype],
                    device="cuda",
                )
                for one in group
            ]
            for group in wanted
        ]


def _packed(components: list[list[Tensor]], gate_up: bool) -> list[Tensor]:
    """Codes and scales [E, ...] of weights that are packed as one."""
    pack = packing(_moe.packing("nvfp4", gate_up)).pack
    return [
        torch.stack([pack("nvfp4", name, one) for one in zip(*parts, strict=True)])
        for name, parts in zip(("weight", "scale"), components, strict=True)
    ]


def _zeros(rows: int, columns: int, gate_up: bool) -> list[Tensor]:
    """A packed shared expert of zeros."""
    made = packing(_moe.packing("fp8_128", gate_up))
    shapes = {"weight": (rows, columns), "scale": (rows // 128, columns // 128)}
    parts = 2 if gate_up else 1
    found: list[Tensor] = []
    for name, (high, wide) in shapes.items():
        one = torch.full((high // parts, wide), 127 * (name == "scale"), dtype=torch.uint8)
        found.append(made.pack("fp8_128", name, [one.cuda()] * parts))
    return found


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
    model: str, weights: Weights, step: Step, ours: _Ours, theirs: _Marlin
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
