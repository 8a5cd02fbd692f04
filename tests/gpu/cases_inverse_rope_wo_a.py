"""Cases of kind inverse_rope_wo_a: inverse RoPE of the attention output + grouped projection.

The reference is float64 over activations turned in float64 and rounded to bf16, as the kernel turns
in fp32 and rounds, and over exactly dequantised weights. Where a rounding boundary lies within the
error of an fp32 rotation, either neighbour is right: the bound of the product grows by what these
activations can change.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from harness import (
    DEVICE,
    F32_ROUNDING,
    LENGTHS,
    Bench,
    Case,
    Gate,
    Run,
    Shape,
    compare,
    count_gate,
    rounding_bound,
)

from dsv4c.codegen.kernels import inverse_rope_wo_a as family

KIND = family.KIND
DIM, ROPE, BLOCK = family.DIM, family.ROPE, family.BLOCK
# heads, groups, rows of a group's weight
MODELS = {"flash": (64, 8, 1024), "pro": (128, 16, 1024), "tiny": (8, 2, 128)}
EDGES = (7, 9, 15, 16, 17, 31, 32, 33, 63, 65, 255, 257, 511, 513)
TIMED = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
# A row's bits are the same for all T within 1..32, 33..128 and from 129 on (Pro: 1..32, 33 on):
# pairs of batch sizes that are compared.
BATCHES = {
    "flash": ((1, 8), (1, 32), (7, 16), (9, 24), (33, 128), (40, 64), (129, 256), (200, 1025)),
    "pro": ((1, 8), (3, 32), (7, 16), (33, 64), (50, 128), (64, 513)),
}


@dataclass(frozen=True)
class Setup:
    """Shapes and kind of data of one case."""

    model: str
    weight: str
    tokens: int
    what: str = "check"
    fewer: int = 0

    @property
    def name(self) -> str:
        tail = "" if self.what == "check" else f"_{self.what}{self.fewer or ''}"
        return f"{self.model}_{self.weight}_t{self.tokens}{tail}"

    @property
    def dims(self) -> tuple[int, int, int, int]:
        """Heads, groups, rows and depth of a group's weight."""
        heads, groups, rows = MODELS[self.model]
        return heads, groups, rows, heads * DIM // groups

    @property
    def kernel(self) -> str:
        heads, groups, rows, _ = self.dims
        return family.kernel_name(family.choose(heads, groups, rows, self.weight, "sm_90a"), "")


def variants(arch: str) -> list[family.Params]:
    """Flash, Pro and tiny with both weight formats."""
    return [family.choose(*dims, form, arch) for dims in MODELS.values() for form in family.FORMATS]


def cases() -> list[Case]:
    """Every model, format and length; tile edges; scales, odd values, batches; then times."""
    found: list[Case] = []
    for form in family.FORMATS:
        for model in MODELS:
            found += [make_case(Setup(model, form, tokens)) for tokens in LENGTHS]
            found.append(_repeat_case(Setup(model, form, 64, "repeat")))
        found += [make_case(Setup("flash", form, tokens)) for tokens in EDGES]
        found += [make_case(Setup("tiny", form, tokens)) for tokens in EDGES]
        found += [make_case(Setup("pro", form, tokens)) for tokens in (9, 32)]
        for tokens in (7, 48, 300):
            found.append(make_case(Setup("flash", form, tokens, "odd")))
            found.append(_repeat_case(Setup("flash", form, tokens, "repeat")))
            found.append(_chain_case(Setup("flash", form, tokens, "chain")))
        for model, pairs in BATCHES.items():
            found += [_batch_case(Setup(model, form, most, "batch", few)) for few, most in pairs]
        found.append(make_case(Setup("flash", form, 0, "empty")))
    found += [make_case(Setup("flash", "fp8_128", tokens, "scales")) for tokens in (1, 33, 257)]
    found += [make_case(Setup("tiny", "fp8_128", tokens, "codes")) for tokens in (8, 64, 257)]
    return found + list(_timed())


def _timed() -> Iterator[Case]:
    for model in ("flash", "pro"):
        for form in family.FORMATS:
            for tokens in TIMED:
                yield make_case(Setup(model, form, tokens, "time"))


def make_case(setup: Setup) -> Case:
    heads, groups, rows, depth = setup.dims
    weights = groups * rows * depth
    moved = weights + weights // BLOCK**2 if setup.weight == "fp8_128" else 2 * weights
    moved += setup.tokens * (heads * DIM * 2 + ROPE * 4 + groups * rows * 2)
    eager = functools.partial(torch_version, groups)
    compiled = functools.partial(_compiled, groups)
    # The baselines take weights that were dequantised beforehand: those of the bf16 cases.
    baselines = {"eager": eager} if setup.weight == "bf16" else {}
    if setup.weight == "bf16" and setup.model == "flash":
        baselines["compile"] = compiled
    bench = Bench(moved, 2 * setup.tokens * weights, baselines)
    timed = setup.what == "time"
    return Case(
        name=setup.name,
        kernel=setup.kernel,
        inputs=functools.partial(_inputs, setup),
        outputs=functools.partial(_outputs, setup),
        verify=None if timed else functools.partial(_verify, setup),
        bench=bench if timed else None,
    )


def _outputs(setup: Setup, inputs: Sequence[torch.Tensor]) -> list[tuple[Shape, torch.dtype]]:
    _, groups, rows, _ = setup.dims
    return [((inputs[0].shape[0], groups * rows), torch.bfloat16)]


def _repeat_case(setup: Setup) -> Case:
    """Twenty calls give the same bits."""

    def outputs(inputs: Sequence[torch.Tensor]) -> list[tuple[Shape, torch.dtype]]:
        return [*_outputs(setup, inputs), ((1,), torch.int64)]

    def call(kernel: Callable[..., object], *given: torch.Tensor) -> None:
        *inputs, z, wrong = given
        kernel(*inputs, z)
        again = torch.empty_like(z)
        wrong.zero_()
        for _ in range(20):
            again.fill_(torch.nan)
            kernel(*inputs, again)
            wrong += (again.view(torch.int16) != z.view(torch.int16)).sum()

    def verify(run: Run) -> list[Gate]:
        return [count_gate("twenty", run.outputs[1])]

    return replace(make_case(setup), outputs=outputs, call=call, verify=verify)


def _chain_case(setup: Setup) -> Case:
    """In a graph, activations that the kernel just before has written are read, not older ones."""

    def outputs(inputs: Sequence[torch.Tensor]) -> list[tuple[Shape, torch.dtype]]:
        ((_, columns), dtype) = _outputs(setup, inputs)[0]
        return 2 * [((8, setup.tokens, columns), dtype)]

    def call(kernel: Callable[..., object], *given: torch.Tensor) -> None:
        o, *others, overlapped, alone = given
        buffer = torch.empty_like(o)
        for step in range(8):
            torch.mul(o, step - 3.5, out=buffer)
            torch.cuda.synchronize()
            kernel(buffer, *others, alone[step])
            torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for step in range(8):
                torch.mul(o, step - 3.5, out=buffer)
                kernel(buffer, *others, overlapped[step])
        for _ in range(5):
            graph.replay()

    def verify(run: Run) -> list[Gate]:
        overlapped, alone = (out.view(torch.int16) for out in run.outputs)
        return [count_gate("overlap", overlapped != alone)]

    return replace(make_case(setup), outputs=outputs, call=call, verify=verify)


def _batch_case(setup: Setup) -> Case:
    """A row's bits do not depend on the rows around it, nor on how many there are in a bucket."""

    def outputs(inputs: Sequence[torch.Tensor]) -> list[tuple[Shape, torch.dtype]]:
        ((_, columns), dtype) = _outputs(setup, inputs)[0]
        return 2 * [((setup.fewer, columns), dtype)]

    def call(kernel: Callable[..., object], *given: torch.Tensor) -> None:
        o, angles, *weight, few, many = given
        pick = torch.arange(o.shape[0], device=DEVICE).flip(0)[: setup.fewer]
        kernel(o[pick].contiguous(), angles[pick].contiguous(), *weight, few)
        whole = torch.empty(o.shape[0], few.shape[1], dtype=few.dtype, device=DEVICE)
        kernel(o, angles, *weight, whole)
        many.copy_(whole[pick])

    def verify(run: Run) -> list[Gate]:
        few, many = (out.view(torch.int16) for out in run.outputs)
        return [count_gate("batch", few != many)]

    return replace(make_case(setup), outputs=outputs, call=call, verify=verify)


def _inputs(setup: Setup, seed: int) -> list[torch.Tensor]:
    make = torch.Generator(DEVICE).manual_seed(seed)
    heads, groups, rows, depth = setup.dims
    tokens = setup.tokens

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=make, device=DEVICE)

    o = normal(tokens, heads, DIM).bfloat16()
    if setup.what == "odd":
        o[2, 1, 5], o[5, 3, 511] = math.nan, math.nan
        o[3, 2, 460], o[4, 0, 461] = math.inf, -math.inf
    turn = 2 * math.pi * torch.rand(tokens, ROPE // 2, generator=make, device=DEVICE)
    angles = torch.cat([turn.cos(), turn.sin()], 1)
    weight = [(0.02 * normal(groups * rows, depth)).bfloat16()]
    if setup.weight == "fp8_128":
        weight = _fp8_weight(setup, make, weight[0])
    return [o, angles, *weight]


def _fp8_weight(setup: Setup, make: torch.Generator, values: torch.Tensor) -> list[torch.Tensor]:
    """E4M3 codes and E8M0 scales: like a checkpoint's, or codes or scales of every legal kind."""
    out, depth = values.shape
    blocks = (out // BLOCK, depth // BLOCK)
    codes = (values * 2.0**11).to(torch.float8_e4m3fn).view(torch.uint8)
    low, high = {"scales": (16, 220), "codes": (120, 134)}.get(setup.what, (112, 120))
    scale = torch.randint(low, high, blocks, generator=make, device=DEVICE, dtype=torch.uint8)
    if setup.what == "codes":
        codes = torch.randint(0, 254, codes.shape, generator=make, device=DEVICE)
        codes = (codes + (codes >= 127)).to(torch.uint8)
    if setup.what == "odd":
        scale[1, 3] = 255
    return [codes, scale]


def dequantised(setup: Setup, weight: Sequence[torch.Tensor]) -> torch.Tensor:
    """The weight in float64, [groups, rows, depth]."""
    _, groups, rows, depth = setup.dims
    values = weight[0]
    if setup.weight == "fp8_128":
        scale = weight[1].double()
        scale = torch.where(scale == 255, torch.nan, torch.exp2(scale - 127))
        values = weight[0].view(torch.float8_e4m3fn).double()
        blocks = values.view(-1, BLOCK, depth // BLOCK, BLOCK)
        values = (blocks * scale[:, None, :, None]).flatten()
    return values.double().view(groups, rows, depth)


def _turned(o: torch.Tensor, angles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations as the product sees them, and how far an fp32 rotation may change the rounding."""
    cos, sin = (half.double().unsqueeze(1) for half in angles.view(-1, 2, ROPE // 2).unbind(1))
    x = o.double()
    even, odd = x[..., DIM - ROPE :: 2], x[..., DIM - ROPE + 1 :: 2]
    exact = torch.stack([even * cos + odd * sin, odd * cos - even * sin], -1).flatten(-2)
    size = torch.stack([even.abs() * cos.abs() + odd.abs() * sin.abs()] * 2, -1)
    size[..., 1] = odd.abs() * cos.abs() + even.abs() * sin.abs()
    # Two products and a sum, each rounded at most once.
    error = 2 * F32_ROUNDING * size.flatten(-2)
    doubt = (exact + error).bfloat16().double() - (exact - error).bfloat16().double()
    x[..., DIM - ROPE :] = exact.bfloat16().double()
    undecided = torch.zeros_like(x)
    undecided[..., DIM - ROPE :] = doubt
    return x, undecided


def _verify(setup: Setup, run: Run) -> list[Gate]:
    if setup.tokens == 0:
        return []
    o, angles, *weight = run.inputs
    _, groups, _, depth = setup.dims
    x, undecided = _turned(o, angles)
    w = dequantised(setup, weight)

    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        grouped = a.view(-1, groups, depth).transpose(0, 1) @ b.transpose(1, 2)
        return grouped.transpose(0, 1).flatten(1)

    reference = product(x, w)
    size = w.abs()
    bound = rounding_bound(reference, product(x.abs(), size), depth) + product(undecided, size)
    gates = [compare("z", run.outputs[0], reference, bound)]
    if setup.what == "odd":
        gates.append(Gate("has_nan", bool(reference.isnan().any()), 0.0))
    return gates


def torch_version(
    groups: int, o: torch.Tensor, angles: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """The same computation as a torch user writes it, on bf16 weights."""
    cos, sin = angles[:, None, : ROPE // 2], angles[:, None, ROPE // 2 :]
    rope = o[..., DIM - ROPE :].float()
    even, odd = rope[..., ::2], rope[..., 1::2]
    turned = torch.stack([even * cos + odd * sin, odd * cos - even * sin], -1).flatten(-2)
    x = torch.cat([o[..., : DIM - ROPE], turned.bfloat16()], -1).view(o.shape[0], groups, -1)
    w = weight.view(groups, -1, weight.shape[1])
    return torch.bmm(x.transpose(0, 1), w.transpose(1, 2)).transpose(0, 1).flatten(1)


@functools.cache
def _compile(tokens: int, groups: int):
    # Every length has a graph of its own; more than eight would fall back to eager.
    torch.compiler.reset()
    return torch.compile(functools.partial(torch_version, groups), dynamic=False)


def _compiled(groups: int, *given: torch.Tensor) -> torch.Tensor:
    return _compile(given[0].shape[0], groups)(*given)
