"""Cases of kind router: logits, scores, choice of experts, weights, and pairs by expert.

The reference is float64. A choice is right if its score is the reference's at that rank, within
what rounding can do to both; exact ties (equal rows of the gate) must go to the lowest expert.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import moe_data
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
)

from dsv4c.codegen.kernels import router as family

KIND = family.KIND
# experts, chosen, depth, scale, rows of the table
MODELS = {
    "flash": (256, 6, 4096, 1.5, 129280),
    "pro": (384, 6, 7168, 2.5, 129280),
    "tiny": (8, 2, 256, 1.5, 2048),
    "flash_f32": (256, 6, 4096, 1.5, 2048),
    "pro_f32": (384, 6, 7168, 2.5, 2048),
    "tiny_f32": (8, 2, 256, 1.5, 2048),
}
# Tokens for which wgmma's clusters split K otherwise than for those of all kernels' cases.
LONG = {"flash": (500, 1000, 4300), "pro": (1000, 2000), "tiny": (8500,)}
TIMED = (1, 8, 16, 64, 128, 256, 512, 1024, 2048, 4096)
# A token's bits are the same for all T up to 8, to 128, to 256, and while wgmma splits K alike.
BATCHES = ((1, 8), (5, 7), (9, 128), (33, 50), (129, 256), (150, 200), (257, 600), (1100, 1400))


@dataclass(frozen=True)
class Setup:
    """Shapes and kind of data of one case."""

    model: str
    tokens: int
    what: str = "check"
    hashed: bool = False
    fewer: int = 0

    @property
    def name(self) -> str:
        tail = "" if self.what == "check" else f"_{self.what}{self.fewer or ''}"
        return f"{self.model}_{'hash_' if self.hashed else ''}t{self.tokens}{tail}"

    @property
    def params(self) -> family.Params:
        return params(self.model, self.hashed)


def params(model: str, hashed: bool, arch: str = "sm_90a") -> family.Params:
    """Of a kernel for a model; `_f32` in its name: the gate is."""
    experts, top_k, depth, scale, vocabulary = MODELS[model]
    form = "f32" if model.endswith("_f32") else "bf16"
    return family.choose(experts, top_k, depth, vocabulary if hashed else 0, scale, arch, form)


def variants(arch: str) -> list[family.Params]:
    """Flash, Pro and tiny, with scores and with the table."""
    return [params(model, hashed, arch) for model in MODELS for hashed in (False, True)]


def cases() -> list[Case]:
    """Every model and length; odd values, ties, batches; then times."""
    found: list[Case] = []
    for model in MODELS:
        for hashed in (False, True):
            lengths = (*LENGTHS, *LONG.get(model, ()))
            found += [make_case(Setup(model, tokens, hashed=hashed)) for tokens in lengths]
        for what in ("odd", "ties", "same", "skewed"):
            found += [make_case(Setup(model, tokens, what)) for tokens in (8, 64, 129, 300)]
    for few, most in BATCHES:
        found.append(_batch_case(Setup("flash", most, "batch", fewer=few)))
    return found + list(_timed())


def _timed() -> Iterator[Case]:
    for model in ("flash", "pro"):
        for tokens in TIMED:
            yield make_case(Setup(model, tokens, "time"))
    yield make_case(Setup("flash", 1, "time", True))


def make_case(setup: Setup) -> Case:
    experts, top_k, depth, _, _ = MODELS[setup.model]
    moved = 2 * experts * depth + setup.tokens * (2 * depth + 12 * top_k) + 8 * experts
    timed = setup.what == "time"
    return Case(
        name=setup.name,
        kernel=family.kernel_name(setup.params, ""),
        inputs=functools.partial(_inputs, setup),
        outputs=functools.partial(_outputs, setup),
        verify=None if timed else functools.partial(_verify, setup),
        bench=Bench(moved, 2 * setup.tokens * experts * depth) if timed else None,
        call=functools.partial(_call, setup),
    )


@functools.cache
def _workspaces(model: str, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    partial, counters = family.workspaces(params(model, False))
    sizes = [int(str(one.dims[0]).removesuffix("*T")) * tokens for one in (partial, counters)]
    return (
        torch.full((sizes[0],), math.nan, device=DEVICE),
        torch.zeros(sizes[1], dtype=torch.int32, device=DEVICE),
    )


def _call(setup: Setup, kernel: Callable[..., object], *given: torch.Tensor) -> None:
    kernel(*given, *_workspaces(setup.model, given[0].shape[0]))


def _outputs(setup: Setup, inputs: Sequence[torch.Tensor]) -> list[tuple[Shape, torch.dtype]]:
    experts, top_k, _, _, _ = MODELS[setup.model]
    pairs = (inputs[0].shape[0], top_k)
    return [
        (pairs, torch.int32),
        (pairs, torch.float32),
        (pairs, torch.int32),
        ((experts + 1,), torch.int32),
    ]


def _batch_case(setup: Setup) -> Case:
    """A token's bits do not depend on the tokens around it, nor on how many of a bucket there are."""

    def outputs(inputs: Sequence[torch.Tensor]) -> list[tuple[Shape, torch.dtype]]:
        found = _outputs(setup, inputs)[:2]
        return 2 * [((setup.fewer, *shape[1:]), dtype) for shape, dtype in found]

    def call(kernel: Callable[..., object], *given: torch.Tensor) -> None:
        x, gate, bias, *out = given
        pick = torch.arange(x.shape[0], device=DEVICE).flip(0)[: setup.fewer]
        for rows, to in ((x[pick].contiguous(), out[:2]), (x, out[2:])):
            inputs = (rows, gate, bias)
            made = [torch.empty(s, dtype=d, device=DEVICE) for s, d in _outputs(setup, inputs)]
            _call(setup, kernel, *inputs, *made)
            for target, value in zip(to, made, strict=False):
                target.copy_(value if rows is not x else value[pick])

    def verify(run: Run) -> list[Gate]:
        bits = [out.view(torch.int32) for out in run.outputs]
        return [count_gate(f"batch_{i}", bits[i] != bits[i + 2]) for i in range(2)]

    return replace(make_case(setup), outputs=outputs, call=call, verify=verify)


def _inputs(setup: Setup, seed: int) -> list[torch.Tensor]:
    make = torch.Generator(DEVICE).manual_seed(seed)
    experts, top_k, depth, _, vocabulary = MODELS[setup.model]
    tokens = setup.tokens

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=make, device=DEVICE)

    x = normal(tokens, depth).bfloat16()
    gate = normal(experts, depth) * (2 / math.sqrt(depth))
    gate = gate if setup.params.form == "f32" else gate.bfloat16()
    bias = 8.08 + 0.1 * normal(experts)
    if setup.what == "odd":
        x[2, 5], x[5, 0], x[6, 7], x[7] = math.nan, math.inf, -math.inf, 30 * x[7]
    if setup.what == "same":
        x = x[:1].expand(tokens, -1).contiguous()
    if setup.what == "ties":
        gate[experts // 2 :], bias[experts // 2 :] = gate[: experts // 2], bias[: experts // 2]
    if setup.what == "skewed":
        bias += torch.linspace(4, 0, experts, device=DEVICE)
    if not setup.hashed:
        return [x, gate, bias]
    dims = moe_data.Model(experts, top_k, depth, 0)
    table = moe_data.choose_experts(make, vocabulary, dims).contiguous()
    ids = torch.randint(0, vocabulary, (tokens,), generator=make, device=DEVICE).int()
    return [x, gate, table, ids]


def _scores(x: torch.Tensor, gate: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores in float64, and how far rounding may move them."""
    logits = x.double() @ gate.double().T
    moved = 4 * F32_ROUNDING * math.sqrt(x.shape[1])
    moved = moved * (x.double().abs() @ gate.double().abs().T)
    scores = torch.nn.functional.softplus(logits, threshold=30.0).sqrt()
    slope = torch.where(scores > 0, logits.sigmoid() / (2 * scores), 0.0)
    return scores, slope * moved + 16 * F32_ROUNDING * scores


def _verify(setup: Setup, run: Run) -> list[Gate]:
    if setup.tokens == 0:
        return []
    x, gate, source, *rest = run.inputs
    experts, weights, order, offsets = run.outputs
    count, top_k, _, scale, _ = MODELS[setup.model]
    scores, error = _scores(x, gate)
    chosen = experts.long()
    legal = (chosen >= 0) & (chosen < count)
    gates = [count_gate("legal", ~legal)]
    if not gates[0].ok:
        return gates
    finite = torch.isfinite(scores).all(1)
    if setup.hashed:
        gates.append(count_gate("table", chosen != source[rest[0].long()]))
    else:
        biased = scores + source.double()
        ranked = biased.sort(dim=1, descending=True, stable=True)
        wanted = ranked.indices[:, :top_k]
        error_b = error + F32_ROUNDING * 2 * biased.abs()
        slack = error_b.amax(1, keepdim=True) * 2
        near = (biased.gather(1, chosen) - ranked.values[:, :top_k]).abs() <= slack
        gates.append(count_gate("choice", torch.where(finite[:, None], ~near, chosen != wanted)))
        tied = biased.gather(1, chosen) == ranked.values[:, :top_k]
        gates.append(count_gate("ties", tied & finite[:, None] & (chosen != wanted)))
        twice = chosen.sort(1).values.diff(dim=1) == 0
        gates.append(count_gate("distinct", twice))
    picked, moved = scores.gather(1, chosen), error.gather(1, chosen)
    total = picked.sum(1, keepdim=True)
    reference = picked / total * scale
    bound = reference * (moved / picked + moved.sum(1, keepdim=True) / total + 16 * F32_ROUNDING)
    gates.append(compare("weights", weights, reference, bound.nan_to_num(1.0)))
    grouped = moe_data.group(chosen, count)
    gates.append(count_gate("order", order != grouped[0]))
    gates.append(count_gate("offsets", offsets != grouped[1]))
    left = _workspaces(setup.model, setup.tokens)[1]
    gates.append(count_gate("counters", left != 0))
    return gates
