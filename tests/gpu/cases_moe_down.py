"""Cases of kind moe_down: down projections of the experts, added up with the shared expert.

The reference is float64 over exactly dequantised weights, one expert at a time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import moe_data
import torch
from cases_moe_gate_up import BUILT, case_list
from cases_moe_gate_up import Setup as GateUp
from harness import BF16_ROUNDING, DEVICE, F32_ROUNDING, Bench, Case, Gate, Run, Shape, compare
from harness import count_gate as counted
from moe_data import MODELS, Matrices

from dsv4c.codegen.kernels import moe_down as family

KIND = family.KIND


class Setup(GateUp):
    """Shapes and kind of data of one case."""

    @property
    def routed(self) -> Matrices:
        dims = MODELS[self.model]
        return Matrices(self.form, dims.hidden, dims.width, False, (dims.experts,))

    @property
    def shared_one(self) -> Matrices:
        dims = MODELS[self.model]
        return Matrices(self.shared, dims.hidden, dims.width, False)

    @property
    def kernel(self) -> str:
        return family.kernel_name(params(self.model, self.form, self.shared), "")


def params(model: str, form: str, shared: str, arch: str = "sm_90a") -> family.Params:
    """Of a kernel for a model."""
    dims = MODELS[model]
    return family.choose(dims.experts, dims.top_k, dims.width, dims.hidden, form, shared, arch)


def variants(arch: str) -> list[family.Params]:
    """The formats that each model's checkpoints come in; all of them for the small one."""
    return [params(model, *pair, arch) for model, pairs in BUILT.items() for pair in pairs]


def cases() -> list[Case]:
    """Every model, format and length; odd values, routings, batches; then times."""
    return case_list(Setup, make_case, _batch_case)


def make_case(setup: Setup) -> Case:
    timed = setup.what == "time"
    return Case(
        name=setup.name,
        kernel=setup.kernel,
        inputs=functools.partial(_inputs, setup),
        outputs=functools.partial(_outputs, setup),
        verify=None if timed else functools.partial(_verify, setup),
        bench=Bench(*_work(setup)) if timed else None,
        call=functools.partial(_call, setup),
        late=(0,) if setup.shared == "none" else None,
    )


@functools.cache
def _workspaces(model: str, form: str, shared: str, act: torch.Tensor) -> tuple[torch.Tensor, ...]:
    wanted = family.workspaces(params(model, form, shared))
    sizes = [int(str(one.dims[0]).removesuffix("*T")) * len(act) for one in wanted]
    return tuple(torch.full((size,), math.nan, device=act.device) for size in sizes)


def _call(setup: Setup, kernel: Callable[..., object], *given: torch.Tensor) -> None:
    dims = (setup.model, setup.form, setup.shared)
    kernel(*given, *_workspaces(*dims, given[0]))


def _work(setup: Setup) -> tuple[int, int]:
    """Fewest bytes and operations, with the experts that an even routing touches."""
    dims, tokens = MODELS[setup.model], setup.tokens
    experts = dims.experts * (1 - (1 - dims.top_k / dims.experts) ** tokens)
    moved = experts * setup.routed.bytes + setup.shared_one.bytes
    moved += tokens * 2 * (dims.hidden + (dims.top_k + 1) * dims.width)
    return int(moved), 2 * tokens * (dims.top_k + 1) * dims.hidden * dims.width


def _outputs(setup: Setup, inputs: Sequence[torch.Tensor]) -> list[tuple[Shape, torch.dtype]]:
    return [((inputs[0].shape[0], MODELS[setup.model].hidden), torch.bfloat16)]


def _batch_case(setup: Setup) -> Case:
    """A token's bits do not depend on the tokens around it, nor on how many there are."""

    def outputs(inputs: Sequence[torch.Tensor]) -> list[tuple[Shape, torch.dtype]]:
        return 2 * [((setup.fewer, MODELS[setup.model].hidden), torch.bfloat16)]

    def call(kernel: Callable[..., object], *given: torch.Tensor) -> None:
        act, order, offsets, shared_act, *weights, few, many = given
        pick = torch.arange(act.shape[0], device=DEVICE).flip(0)[: setup.fewer]
        experts = torch.empty_like(order).flatten()
        for e, pairs in moe_data.touched(order, offsets):
            experts[pairs] = e
        grouped = moe_data.group(experts.view(order.shape)[pick].long(), offsets.shape[0] - 1)
        rows = (act[pick].contiguous(), *grouped, shared_act[pick].contiguous())
        _call(setup, kernel, *rows, *weights, few)
        whole = torch.empty(act.shape[0], few.shape[1], dtype=few.dtype, device=DEVICE)
        _call(setup, kernel, act, order, offsets, shared_act, *weights, whole)
        many.copy_(whole[pick])

    def verify(run: Run) -> list[Gate]:
        few, many = (out.view(torch.int16) for out in run.outputs)
        return [counted("batch", few != many)]

    return replace(make_case(setup), outputs=outputs, call=call, verify=verify)


def _inputs(setup: Setup, seed: int) -> list[torch.Tensor]:
    make = torch.Generator(DEVICE).manual_seed(seed)
    dims, tokens = MODELS[setup.model], setup.tokens

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=make, device=DEVICE).bfloat16()

    act, shared_act = normal(tokens, dims.top_k, dims.width), normal(tokens, dims.width)
    how = setup.what if setup.what in ("one", "skewed") else "even"
    experts = moe_data.choose_experts(make, tokens, dims, "one" if setup.what == "same" else how)
    if setup.what == "odd":
        act[2, 0, 5], act[5, 1, 0], shared_act[6, 7] = math.nan, math.inf, -math.inf
    if setup.what == "same":
        act = act[:1].expand(tokens, -1, -1).contiguous()
        shared_act = shared_act[:1].expand(tokens, -1).contiguous()
    scales = setup.what == "scales"
    weights = setup.routed.draw(make, 1.0, scales) + setup.shared_one.draw(make, 1.0, scales)
    order, offsets = moe_data.group(experts, dims.experts)
    beside = [] if setup.shared == "none" else [shared_act]
    return [act, order, offsets, *beside, *weights]


def _verify(setup: Setup, run: Run) -> list[Gate]:
    if setup.tokens == 0:
        return []
    act, order, offsets, *weights = run.inputs
    (y,) = run.outputs
    dims, routed = MODELS[setup.model], setup.routed
    reference, size = (torch.zeros_like(y, dtype=torch.float64) for _ in range(2))
    if setup.shared != "none":
        shared_act, *weights = weights
        (w,) = setup.shared_one.dense(weights[routed.parts :], None)
        x = shared_act.double()
        reference, size = x @ w.T, x.abs() @ w.abs().T
    flat = act.flatten(0, 1).double()
    for expert, pairs in moe_data.touched(order, offsets):
        (w,) = routed.dense(weights[: routed.parts], expert)
        x, tokens = flat[pairs], pairs // dims.top_k
        reference.index_add_(0, tokens, x @ w.T)
        size.index_add_(0, tokens, x.abs() @ w.abs().T)
    terms = (dims.top_k + 1) * dims.width
    bound = BF16_ROUNDING * reference.abs() + 4 * F32_ROUNDING * math.sqrt(terms) * size
    gates = [compare("y", y, reference, bound)]
    if setup.what == "same":
        bits = y.view(torch.int16)
        gates.append(counted("same", bits != bits[:1]))
    return gates
