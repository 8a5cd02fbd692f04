"""Cases of kind moe_gate_up: gate and up projections of the experts, clamp, SwiGLU, routing weight.

The reference is float64 over exactly dequantised weights, one expert at a time. The bound of an
activation is what the bounds of its two sums can change, since silu's slope is below 1.1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import moe_data
import torch
from harness import (
    BF16_ROUNDING,
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
)
from moe_data import MODELS, Matrices

from dsv4c.codegen.kernels import moe_gate_up as family

KIND = family.KIND
LIMIT = 10.0
# Routed and shared format; "none": no shared expert.
FORMS = (
    ("nvfp4", "fp8_128"),
    ("mxfp4", "fp8_128"),
    ("fp8_128", "fp8_128"),
    ("bf16", "bf16"),
    ("nvfp4", "nvfp4"),
    ("mxfp4", "mxfp4"),
    ("nvfp4", "bf16"),
    ("nvfp4", "none"),
)
# What a model's checkpoints come in.
BUILT = {
    "flash": (*FORMS[:4], FORMS[-1]),
    "pro": FORMS[:2],
    "few": FORMS[2:4],
    "tiny": FORMS,
}
TIMED = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MANY = (512, 1024, 2048, 4096)


@dataclass(frozen=True)
class Setup:
    """Shapes and kind of data of one case."""

    model: str
    form: str
    shared: str
    tokens: int
    what: str = "check"
    fewer: int = 0

    @property
    def name(self) -> str:
        tail = "" if self.what == "check" else f"_{self.what}{self.fewer or ''}"
        return f"{self.model}_{self.form}_{self.shared}_t{self.tokens}{tail}"

    @property
    def routed(self) -> Matrices:
        dims = MODELS[self.model]
        return Matrices(self.form, dims.width, dims.hidden, True, (dims.experts,))

    @property
    def shared_one(self) -> Matrices:
        dims = MODELS[self.model]
        return Matrices(self.shared, dims.width, dims.hidden, True)

    @property
    def kernel(self) -> str:
        return family.kernel_name(params(self.model, self.form, self.shared), "")


S = TypeVar("S", bound=Setup)


def params(model: str, form: str, shared: str, arch: str = "sm_90a") -> family.Params:
    """Of a kernel for a model."""
    dims = MODELS[model]
    return family.choose(
        dims.experts, dims.top_k, dims.hidden, dims.width, form, shared, LIMIT, arch
    )


def variants(arch: str) -> list[family.Params]:
    """The formats that each model's checkpoints come in; all of them for the small one."""
    return [params(model, *pair, arch) for model, pairs in BUILT.items() for pair in pairs]


def cases() -> list[Case]:
    """Every model, format and length; odd values, routings, batches; then times."""
    return case_list(Setup, make_case, _batch_case)


def case_list(setup: type[S], make: Callable[[S], Case], batch: Callable[[S], Case]) -> list[Case]:
    """The cases of one of the experts' projections.

    Args:
        setup: what `make` and `batch` take.
        make: a case that is checked or timed.
        batch: a case that compares a token's bits in two batches.
    """
    found: list[Case] = []
    for model, pairs in BUILT.items():
        for form, shared in pairs:
            found += [make(setup(model, form, shared, tokens)) for tokens in (*LENGTHS, 700)]
            for tokens in (1, 8, 40) if model == "tiny" else ():
                found.append(make(setup(model, form, shared, tokens, "scales")))
            # 100 tokens an expert; wgmma's first tile.
            for tokens in {"tiny": (400,), "few": (100,)}.get(model, ()):
                found.append(make(setup(model, form, shared, tokens)))
        for tokens in (8, 64):
            for what in ("odd", "one", "skewed", "same"):
                found.append(make(setup(model, *pairs[0], tokens, what)))
        found += [batch(setup(model, *pairs[0], 64, "batch", few)) for few in (1, 7, 40)]
    found.append(make(setup("tiny", *FORMS[0], 0, "empty")))
    for model in ("tiny", "flash"):
        found.append(batch(setup(model, *FORMS[0], 600, "batch", 300)))
    for what in ("check", "odd", "one", "skewed", "same"):
        found.append(make(setup("tiny", *FORMS[0], 513, what)))
    found.append(batch(setup("tiny", *FORMS[0], 600, "batch", 100)))
    for model in ("flash", "pro"):
        for pair in BUILT[model][:2]:
            for tokens in TIMED if model == "flash" else (1, 8, 64):
                found.append(make(setup(model, *pair, tokens, "time")))
    for tokens in MANY:
        found.append(make(setup("flash", *FORMS[0], tokens, "time")))
    return found


def make_case(setup: Setup) -> Case:
    timed = setup.what == "time"
    return Case(
        name=setup.name,
        kernel=setup.kernel,
        inputs=functools.partial(_inputs, setup),
        outputs=functools.partial(_outputs, setup),
        verify=None if timed else functools.partial(_verify, setup),
        bench=Bench(*_work(setup)) if timed else None,
    )


def _work(setup: Setup) -> tuple[int, int]:
    """Fewest bytes and operations, with the experts that an even routing touches."""
    dims, tokens = MODELS[setup.model], setup.tokens
    experts = dims.experts * (1 - (1 - dims.top_k / dims.experts) ** tokens)
    moved = experts * setup.routed.bytes + setup.shared_one.bytes
    moved += tokens * 2 * (dims.hidden + (dims.top_k + 1) * dims.width)
    return int(moved), 4 * tokens * (dims.top_k + 1) * dims.hidden * dims.width


def _outputs(setup: Setup, inputs: Sequence[torch.Tensor]) -> list[tuple[Shape, torch.dtype]]:
    dims, tokens = MODELS[setup.model], inputs[0].shape[0]
    shapes = ((tokens, dims.top_k, dims.width), (tokens, dims.width))
    count = 1 if setup.shared == "none" else 2
    return [(shape, torch.bfloat16) for shape in shapes[:count]]


def _batch_case(setup: Setup) -> Case:
    """A token's bits do not depend on the tokens around it, nor on how many there are."""

    def outputs(inputs: Sequence[torch.Tensor]) -> list[tuple[Shape, torch.dtype]]:
        whole = _outputs(setup, inputs)
        return 2 * [((setup.fewer, *shape[1:]), dtype) for shape, dtype in whole]

    def call(kernel: Callable[..., object], *given: torch.Tensor) -> None:
        x, routing, order, offsets, *weights = given[:-4]
        few, many = given[-4:-2], given[-2:]
        pick = torch.arange(x.shape[0], device=DEVICE).flip(0)[: setup.fewer]
        experts = torch.empty_like(order).flatten()
        for e, pairs in moe_data.touched(order, offsets):
            experts[pairs] = e
        experts = experts.view(order.shape)[pick].long()
        fewer = (x[pick].contiguous(), routing[pick].contiguous())
        kernel(*fewer, *moe_data.group(experts, offsets.shape[0] - 1), *weights, *few)
        whole = [
            torch.empty(x.shape[0], *out.shape[1:], dtype=out.dtype, device=DEVICE) for out in many
        ]
        kernel(x, routing, order, offsets, *weights, *whole)
        for out, full in zip(many, whole, strict=True):
            out.copy_(full[pick])

    def verify(run: Run) -> list[Gate]:
        bits = [out.view(torch.int16) for out in run.outputs]
        return [count_gate(f"batch_{i}", bits[i] != bits[i + 2]) for i in range(2)]

    return replace(make_case(setup), outputs=outputs, call=call, verify=verify)


def _inputs(setup: Setup, seed: int) -> list[torch.Tensor]:
    make = torch.Generator(DEVICE).manual_seed(seed)
    dims, tokens = MODELS[setup.model], setup.tokens
    x = torch.randn(tokens, dims.hidden, generator=make, device=DEVICE).bfloat16()
    routing = torch.rand(tokens, dims.top_k, generator=make, device=DEVICE) * 0.9 + 0.1
    how = setup.what if setup.what in ("one", "skewed") else "even"
    experts = moe_data.choose_experts(make, tokens, dims, "one" if setup.what == "same" else how)
    if setup.what == "odd":
        x[2, 5], x[5, 0], x[6, 7] = math.nan, math.inf, -math.inf
    if setup.what == "same":
        x, routing = (
            x[:1].expand(tokens, -1).contiguous(),
            routing[:1].expand(tokens, -1).contiguous(),
        )
    scales = setup.what == "scales"
    # Sums of about 6: many cross the clamp.
    weights = setup.routed.draw(make, 6.0, scales) + setup.shared_one.draw(make, 6.0, scales)
    return [x, routing, *moe_data.group(experts, dims.experts), *weights]


def _reference(
    x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, factor: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations in float64, and their bound."""
    c = 4 * F32_ROUNDING * math.sqrt(x.shape[1])
    g, u = x @ gate.T, x @ up.T
    g_error, u_error = (c * (x.abs() @ w.abs().T) for w in (gate, up))
    silu = torch.nn.functional.silu(g.clamp(max=LIMIT))
    u = u.clamp(-LIMIT, LIMIT)
    y = silu * u * factor
    slack = (1.1 * g_error * u.abs() + silu.abs() * u_error + g_error * u_error) * factor.abs()
    return y, slack + (BF16_ROUNDING + 16 * F32_ROUNDING) * y.abs()


def _verify(setup: Setup, run: Run) -> list[Gate]:
    if setup.tokens == 0:
        return []
    x, routing, order, offsets, *weights = run.inputs
    act, *shared_act = run.outputs
    dims, routed, shared = MODELS[setup.model], setup.routed, setup.shared_one
    x = x.double()
    reference = torch.empty(
        setup.tokens * dims.top_k, dims.width, dtype=torch.float64, device=DEVICE
    )
    bound = torch.empty_like(reference)
    for expert, pairs in moe_data.touched(order, offsets):
        gate, up = routed.dense(weights[: routed.parts], expert)
        factor = routing.flatten()[pairs, None].double()
        reference[pairs], bound[pairs] = _reference(x[pairs // dims.top_k], gate, up, factor)
    gates = [compare("act", act.flatten(0, 1), reference, bound)]
    for one in shared_act:
        gate, up = shared.dense(weights[routed.parts :], None)
        gates.append(compare("shared", one, *_reference(x, gate, up, x.new_ones(1))))
    if setup.what != "scales":
        clamped = (reference.abs() > 9.99 * routing.flatten()[:, None]).any()
        gates.append(Gate("crosses_the_clamp", bool(clamped), 0.0))
    if setup.what == "same":
        bits = act.view(torch.int16)
        gates.append(count_gate("same", bits != bits[:1]))
    return gates
