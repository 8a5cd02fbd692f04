"""The routed experts of a layer with random NVFP4 weights, by the generated kernels."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dsv4c.bench.peers.library import FAMILIES, KINDS, MODELS, Kernels, experts
from dsv4c.codegen.kernels import _moe, moe_down, router
from dsv4c.codegen.packing import packing


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


def draw(model: str, make: torch.Generator) -> Weights:
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


def kernel_names(model: str, shared: bool = True) -> list[str]:
    """Of router, gate and up, down, with the shared expert or without."""
    params = experts(model, "sm_90a", shared)
    return [
        FAMILIES[kind].kernel_name(one, "sm_90a") for kind, one in zip(KINDS, params, strict=True)
    ]


class OurExperts:
    """The three kernels of a layer's experts, with packed weights and zeros in the shared expert."""

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

    def routed(self, model: str, kernels: Kernels) -> OurExperts:
        """The same with kernels that know no shared expert."""
        found = copy.copy(self)
        found.params = experts(model, "sm_90a", shared=False)
        found.kernels = [kernels[name] for name in kernel_names(model, shared=False)]
        found.shared = [[], []]
        return found

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
            given = (acts[0], order, offsets, *acts[1:], *self.w2, *self.shared[1])
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
        acts = [empty(torch.bfloat16, *pairs, width)]
        if self.shared[0]:
            acts.append(empty(torch.bfloat16, tokens, width))
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
