"""References of the sites of hyper-connections, for `cases_mhc_*.py`: float64, with error bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from harness import (
    BF16_ROUNDING,
    DEVICE,
    F32_ROUNDING,
    Case,
    Gate,
    Run,
    Shape,
    compare,
    count_gate,
)

STREAMS, EPS, MIX_EPS, ITERATIONS = 4, 1e-6, 1e-6, 20
SPLIT = 2.0**-17  # of a weight that two bf16 lose
BATCHES = ((1, 8), (3, 64), (8, 9), (64, 129), (1, 257), (120, 4096))
MODELS = {"flash": 4096, "pro": 7168, "tiny": 256}
# Tiles of other widths come by rule: one warp, a cluster of two.
RULED = {"w32": 32, "w1024": 1024}
WIDTHS = MODELS | RULED


@dataclass(frozen=True)
class Weights:
    """fn, base, scale and norm of a site, as the kernel gets them."""

    fn: torch.Tensor
    base: torch.Tensor
    scale: torch.Tensor
    norm: torch.Tensor


@dataclass(frozen=True)
class Bounded:
    """A value in float64 and the largest error of a kernel's."""

    value: torch.Tensor
    bound: torch.Tensor


def normal(make: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=make, device=DEVICE)


def make_weights(make: torch.Generator, rows: int, width: int) -> list[torch.Tensor]:
    """A product fn that mixes streams of size one to logits of size one, f32; norm about 1, bf16."""
    fn = normal(make, rows, STREAMS * width) * (STREAMS * width) ** -0.5
    base = normal(make, rows)
    scale = 0.5 + torch.rand(3 if rows > 4 else 1, generator=make, device=DEVICE)
    norm = (1 + 0.3 * normal(make, width)).bfloat16()
    return [fn, base, scale, norm]


def make_streams(make: torch.Generator, tokens: int, width: int, sizes: bool) -> list[torch.Tensor]:
    """streams, y, post, comb; with `sizes`, tokens from nothing to huge."""
    streams, y = normal(make, tokens, STREAMS, width), normal(make, tokens, width)
    if sizes:
        size = torch.tensor([1.0, 1.0, 1.0, 40.0, 1e-3, 1e-30, 0.0, 1e14], device=DEVICE)
        pick = torch.randint(0, 8, (tokens, 1), generator=make, device=DEVICE)
        streams, y = streams * size[pick, None], y * size[pick]
    post = 2 * torch.sigmoid(normal(make, tokens, STREAMS))
    comb = torch.softmax(normal(make, tokens, STREAMS, STREAMS), -1)
    for _ in range(4):
        comb = comb / comb.sum(-2, keepdim=True)
        comb = comb / comb.sum(-1, keepdim=True)
    return [streams.bfloat16(), y.bfloat16(), post, comb]


def cancel(given: Sequence[torch.Tensor]) -> None:
    """Change a site's inputs: in every other token streams cancel to a 64th in x, in others not.

    Args:
        given: streams, y, post, comb, fn, base.
    """
    streams, _, post, comb, fn, base = given
    fn[:STREAMS], base[:STREAMS] = 0, 0  # pre is the same for all streams
    post[1::2], comb[1::2] = 0, torch.eye(STREAMS, device=DEVICE)
    sign = 1 - 2 * (torch.arange(streams.shape[2], device=DEVICE) % 2)
    streams[1::2, 1::2] = (-streams[1::2, ::2].float() * (1 + 2.0**-6 * sign)).bfloat16()


def expand(
    streams: torch.Tensor, y: torch.Tensor, post: torch.Tensor, comb: torch.Tensor
) -> Bounded:
    """X' before rounding; bound without it."""
    x, y, post, comb = streams.double(), y.double(), post.double(), comb.double()

    def of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.einsum("tjk,tjd->tkd", comb, x) + post[:, :, None] * y[:, None]

    size = of(x.abs(), y.abs())
    return Bounded(of(x, y), 4 * F32_ROUNDING * (STREAMS + 1) ** 0.5 * size + 1e-40)


def mix(streams: torch.Tensor, weights: Weights) -> Bounded:
    """Logits m * scale + base, in float64 from streams as they are stored."""
    v, fn = streams.double().flatten(1), weights.fn.double()
    factor = torch.rsqrt(v.square().mean(-1, keepdim=True) + EPS)
    value, size = v @ fn.T * factor, v.abs() @ fn.abs().T * factor
    error = (SPLIT + 4 * F32_ROUNDING * v.shape[1] ** 0.5) * size
    rows = len(weights.base)
    groups = torch.tensor([0] * 4 + [1] * 4 + [2] * 16, device=v.device)[:rows]
    scale, base = weights.scale.double()[groups], weights.base.double()
    rounding = 2 * F32_ROUNDING * ((value * scale).abs() + base.abs())
    return Bounded(value * scale + base, error * scale.abs() + rounding)


def sigmoid(logits: Bounded) -> Bounded:
    value = torch.sigmoid(logits.value)
    slope = value * (1 - value)
    return Bounded(value, slope * logits.bound + 16 * F32_ROUNDING * value)


def sinkhorn(logits: Bounded) -> Bounded:
    """comb; log-errors of a matrix do not grow from round to round."""
    comb = logits.value.unflatten(1, (STREAMS, STREAMS)).softmax(-1) + MIX_EPS
    comb = comb / (comb.sum(-2, keepdim=True) + MIX_EPS)
    for _ in range(ITERATIONS - 1):
        comb = comb / (comb.sum(-1, keepdim=True) + MIX_EPS)
        comb = comb / (comb.sum(-2, keepdim=True) + MIX_EPS)
    worst = 4 * logits.bound.amax(1)[:, None, None] + 8 * ITERATIONS * F32_ROUNDING
    return Bounded(comb, comb * worst)


def collapse(
    streams: torch.Tensor, doubt: torch.Tensor | None, pre: Bounded, norm: torch.Tensor
) -> Bounded:
    """rmsnorm(sum of pre[k] * X'[k]) * norm; `doubt`: how far elements of X' may be off."""
    s, p = streams.double(), pre.value[:, :, None]
    x, size = (s * p).sum(1), (s * p).abs().sum(1)
    error = (s.abs() * pre.bound[:, :, None]).sum(1) + 8 * F32_ROUNDING * size
    if doubt is not None:
        error = error + (doubt * p).sum(1)
    factor = torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)
    shift = (
        error.square().sum(-1, keepdim=True) / x.square().sum(-1, keepdim=True).clamp(1e-300)
    ).sqrt()
    shift = shift.clamp(max=1.0) + 4 * F32_ROUNDING * x.shape[1] ** 0.5
    y, w = x * factor * norm.double(), norm.double().abs()
    bound = BF16_ROUNDING * y.abs() + factor * w * (error + x.abs() * shift) + 1e-40
    return Bounded(y, bound)


def site_gates(weights: Weights, outputs: Sequence[torch.Tensor]) -> list[Gate]:
    """Gates on post', comb' and x, from the streams that the kernel stored."""
    streams, post, comb, x = outputs
    logits = mix(streams, weights)

    def part(first: int, last: int) -> Bounded:
        return Bounded(logits.value[:, first:last], logits.bound[:, first:last])

    pre = sigmoid(part(0, 4))
    pre = Bounded(pre.value + MIX_EPS, pre.bound + F32_ROUNDING)
    half, whole = sigmoid(part(4, 8)), sinkhorn(part(8, 24))
    collapsed = collapse(streams, None, pre, weights.norm)
    return [
        compare("post", post, 2 * half.value, 2 * half.bound),
        compare("comb", comb, whole.value, whole.bound),
        compare("x", x, collapsed.value, collapsed.bound),
    ]


def torch_site(
    streams: torch.Tensor,
    fn: torch.Tensor,
    base: torch.Tensor,
    scale: torch.Tensor,
    norm: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """Coefficients, collapse and norm as a torch user writes them, in fp32."""
    v = streams.float()
    flat = v.flatten(1)
    m = flat @ fn.T * torch.rsqrt(flat.square().mean(-1, keepdim=True) + EPS)
    pre = torch.sigmoid(m[:, :4] * scale[0] + base[:4]) + MIX_EPS
    if fn.shape[0] == STREAMS:
        return (torch_norm((v * pre[:, :, None]).sum(1), norm),)
    post = 2 * torch.sigmoid(m[:, 4:8] * scale[1] + base[4:8])
    comb = (m[:, 8:] * scale[2] + base[8:]).unflatten(1, (STREAMS, STREAMS)).softmax(-1) + MIX_EPS
    comb = comb / (comb.sum(-2, keepdim=True) + MIX_EPS)
    for _ in range(ITERATIONS - 1):
        comb = comb / (comb.sum(-1, keepdim=True) + MIX_EPS)
        comb = comb / (comb.sum(-2, keepdim=True) + MIX_EPS)
    return streams, post, comb, torch_norm((v * pre[:, :, None]).sum(1), norm)


def torch_norm(x: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * norm.float()).bfloat16()


def torch_expand(
    streams: torch.Tensor, y: torch.Tensor, post: torch.Tensor, comb: torch.Tensor
) -> torch.Tensor:
    mixed = torch.einsum("tjk,tjd->tkd", comb, streams.float())
    return (mixed + post[:, :, None] * y.float()[:, None]).bfloat16()


Call = Callable[..., object]
Counting = Callable[[Call, Sequence[torch.Tensor], list[torch.Tensor]], torch.Tensor]


def made(outputs: Sequence[tuple[Shape, torch.dtype]]) -> list[torch.Tensor]:
    """Results of a call, of NaN."""
    return [torch.full(shape, torch.nan, dtype=dtype, device=DEVICE) for shape, dtype in outputs]


def different_bytes(some: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> torch.Tensor:
    """How many bytes differ."""
    pairs = zip(some, others, strict=True)
    wrong = [(a.view(torch.uint8) != b.view(torch.uint8)).sum() for a, b in pairs]
    return torch.stack(wrong).sum()[None]


def counted(case: Case, inputs: int, count: Counting) -> Case:
    """A case of `inputs` inputs that passes if `count`, given results to fill, finds nothing."""

    def call(kernel: Call, *given: torch.Tensor) -> None:
        operands = given[:inputs]
        given[-1].copy_(count(kernel, operands, made(case.outputs(operands))))

    def verify(run: Run) -> list[Gate]:
        return [count_gate("different", run.outputs[0])]

    one = ((1,), torch.int64)
    return replace(case, outputs=lambda _: [one], call=call, verify=verify)


def repeat_case(case: Case, inputs: int) -> Case:
    """Twenty calls give the same bits."""

    def count(
        kernel: Call, given: Sequence[torch.Tensor], first: list[torch.Tensor]
    ) -> torch.Tensor:
        kernel(*given, *first)
        wrong = torch.zeros(1, dtype=torch.int64, device=DEVICE)
        for _ in range(20):
            again = made(case.outputs(given))
            kernel(*given, *again)
            wrong += different_bytes(first, again)
        return wrong

    return counted(case, inputs, count)


def batch_case(case: Case, inputs: int, rows: Sequence[int], fewer: int) -> Case:
    """A row's bits do not depend on the rows around it, nor on how many there are.

    Args:
        case: the large batch.
        inputs: how many it has.
        rows: those with a row for each row of the results.
        fewer: rows of the small batch: the last ones of the large one, in reverse.
    """

    def count(
        kernel: Call, given: Sequence[torch.Tensor], many: list[torch.Tensor]
    ) -> torch.Tensor:
        pick = torch.arange(len(many[0]), device=DEVICE).flip(0)[:fewer]
        some = [value[pick] if i in rows else value for i, value in enumerate(given)]
        few = made(case.outputs(some))
        kernel(*some, *few)
        kernel(*given, *many)
        return different_bytes(few, [value[pick] for value in many])

    return counted(case, inputs, count)
