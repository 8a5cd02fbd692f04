"""Cases of kind mhc_head: the last post for some rows, collapse of the head, final RMSNorm."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import mhc_site
import torch
from harness import DEVICE, LENGTHS, Bench, Case, Gate, Run, Shape, compare
from mhc_site import MIX_EPS, MODELS, RULED, STREAMS, WIDTHS, Bounded

from dsv4c.codegen.kernels import mhc_head as family

KIND = family.KIND
INPUTS = 9
ROWS = (*((40, rows) for rows in LENGTHS), (8, 8), (300, 129))
TIMED = ((1, 1), (8, 8), (64, 64), (256, 256), (4096, 8), (4096, 4096))


@dataclass(frozen=True)
class Setup:
    """Shapes and kind of data of one case: T tokens, R rows."""

    model: str
    tokens: int
    rows: int
    what: str = "check"
    fewer: int = 0

    @property
    def name(self) -> str:
        tail = "" if self.what == "check" else f"_{self.what}{self.fewer or ''}"
        return f"{self.model}_t{self.tokens}_r{self.rows}{tail}"

    @property
    def width(self) -> int:
        return WIDTHS[self.model]


def variants(arch: str) -> list[family.Params]:
    """Flash, Pro and tiny; widths whose tiles come by rule."""
    return [family.choose(width) for width in WIDTHS.values()]


def cases() -> list[Case]:
    """Every width and length; odd values; streams that cancel; the same bits again; then times."""
    found = [make_case(Setup(model, *sizes)) for model in MODELS for sizes in ROWS]
    for model in MODELS:
        found.append(make_case(Setup(model, 40, 30, "odd")))
        found += [make_case(Setup(model, 40, rows, "cancel")) for rows in (2, 300)]
        found += [
            mhc_site.repeat_case(make_case(Setup(model, 300, r, "repeat")), INPUTS)
            for r in (5, 300)
        ]
        found += [
            mhc_site.batch_case(make_case(Setup(model, 64, most, "batch", few)), INPUTS, (4,), few)
            for few, most in mhc_site.BATCHES
        ]
    found += [make_case(Setup(model, 300, rows)) for model in RULED for rows in (*LENGTHS, 9)]
    found.append(make_case(Setup("flash", 5, 0, "empty")))
    return found + [
        make_case(Setup(m, *sizes, "time")) for m in ("flash", "pro") for sizes in TIMED
    ]


def make_case(setup: Setup) -> Case:
    width, rows = setup.width, setup.rows
    moved = 2 * rows * width * (STREAMS + 2) + 4 * STREAMS * STREAMS * width + 2 * width
    timed = setup.what == "time"
    return Case(
        name=setup.name,
        kernel=family.kernel_name(family.choose(width), "sm_90a"),
        inputs=functools.partial(_inputs, setup),
        outputs=_outputs,
        verify=None if timed else functools.partial(_verify, setup),
        bench=Bench(moved + rows * 84, baselines={"eager": torch_version}) if timed else None,
    )


def _inputs(setup: Setup, seed: int) -> list[torch.Tensor]:
    make = torch.Generator(DEVICE).manual_seed(seed)
    given = mhc_site.make_streams(make, setup.tokens, setup.width, sizes=setup.what == "check")
    if setup.what == "odd":
        infinite = 60 % setup.width
        given[0][2, 1, 5], given[1][9, 7], given[0][3, 2, infinite] = math.nan, math.nan, math.inf
    size, count = (setup.rows,), setup.tokens
    rows = torch.randint(0, max(count, 1), size, generator=make, device=DEVICE).int()
    if setup.what == "odd":
        rows = torch.arange(setup.rows, device=DEVICE).int()
    weights = mhc_site.make_weights(make, STREAMS, setup.width)
    if setup.what in ("cancel", "batch"):
        mhc_site.cancel([*given, *weights[:2]])
    return [*given, rows, *weights]


def _outputs(inputs: Sequence[torch.Tensor]) -> list[tuple[Shape, torch.dtype]]:
    return [((len(inputs[4]), inputs[0].shape[2]), torch.bfloat16)]


def _verify(setup: Setup, run: Run) -> list[Gate]:
    if setup.rows == 0:
        return []
    *tensors, rows, fn, base, scale, norm = run.inputs
    weights = mhc_site.Weights(fn, base, scale, norm)
    expanded = mhc_site.expand(*(value[rows.long()] for value in tensors))
    # Where a rounding boundary lies within the error, either neighbour is right.
    value, error = expanded.value, expanded.bound
    doubt = (value + error).bfloat16().double() - (value - error).bfloat16().double()
    streams = value.bfloat16()
    logits = mhc_site.mix(streams, weights)
    moved = doubt.flatten(1).square() @ fn.double().square().T
    size = streams.double().flatten(1).square().mean(-1, keepdim=True) + mhc_site.EPS
    more = 4 * (moved / size).sqrt() * scale.double().abs()
    pre = mhc_site.sigmoid(Bounded(logits.value, logits.bound + more))
    pre = Bounded(pre.value + MIX_EPS, pre.bound + mhc_site.F32_ROUNDING)
    collapsed = mhc_site.collapse(streams, doubt, pre, norm)
    gates = [compare("x", run.outputs[0], collapsed.value, collapsed.bound)]
    if setup.what == "odd":
        wrong = run.outputs[0].isnan().any(1).nonzero()[:, 0].tolist()
        gates.append(Gate("rows", wrong == [2, 3, 9], 0.0, str(wrong)))
    return gates


def torch_version(
    streams: torch.Tensor,
    y: torch.Tensor,
    post: torch.Tensor,
    comb: torch.Tensor,
    rows: torch.Tensor,
    *weights: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """The same computation as a torch user writes it."""
    taken = (value[rows] for value in (streams, y, post, comb))
    return mhc_site.torch_site(mhc_site.torch_expand(*taken), *weights)
