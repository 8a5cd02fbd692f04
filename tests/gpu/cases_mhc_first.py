"""Cases of kind mhc_first: embedding, copies in all streams, the first pre, RMSNorm."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import mhc_site
import torch
from harness import DEVICE, LENGTHS, Bench, Case, Gate, Run, Shape, count_gate
from mhc_site import MODELS, RULED, STREAMS, WIDTHS

from dsv4c.codegen.kernels import mhc_first as family

KIND = family.KIND
INPUTS = 6
VOCABULARY = 2048
TIMED = (1, 8, 64, 256, 4096)


@dataclass(frozen=True)
class Setup:
    """Shapes and kind of data of one case."""

    model: str
    tokens: int
    what: str = "check"
    fewer: int = 0

    @property
    def name(self) -> str:
        tail = "" if self.what == "check" else f"_{self.what}{self.fewer or ''}"
        return f"{self.model}_t{self.tokens}{tail}"

    @property
    def width(self) -> int:
        return WIDTHS[self.model]


def variants(arch: str) -> list[family.Params]:
    """Flash, Pro and tiny; widths whose tiles come by rule."""
    return [family.choose(width, VOCABULARY) for width in WIDTHS.values()]


def cases() -> list[Case]:
    """Every width and length; odd values; the same bits again and in batches; then times."""
    found = [make_case(Setup(model, tokens)) for model in MODELS for tokens in LENGTHS]
    for model in MODELS:
        found.append(make_case(Setup(model, 300, "odd")))
        found += [
            mhc_site.repeat_case(make_case(Setup(model, t, "repeat")), INPUTS) for t in (5, 300)
        ]
        found += [
            mhc_site.batch_case(make_case(Setup(model, most, "batch", few)), INPUTS, (0,), few)
            for few, most in mhc_site.BATCHES
        ]
    found += [make_case(Setup(model, tokens)) for model in RULED for tokens in (*LENGTHS, 9)]
    found.append(make_case(Setup("flash", 0, "empty")))
    return found + [make_case(Setup(m, t, "time")) for m in ("flash", "pro") for t in TIMED]


def make_case(setup: Setup) -> Case:
    width, tokens = setup.width, setup.tokens
    moved = 2 * tokens * width * (STREAMS + 2) + 4 * 24 * STREAMS * width + 2 * width
    timed = setup.what == "time"
    return Case(
        name=setup.name,
        kernel=family.kernel_name(family.choose(width, VOCABULARY), "sm_90a"),
        inputs=functools.partial(_inputs, setup),
        outputs=_outputs,
        verify=None if timed else functools.partial(_verify, setup),
        bench=Bench(moved + tokens * 84, baselines={"eager": torch_version}) if timed else None,
    )


def _inputs(setup: Setup, seed: int) -> list[torch.Tensor]:
    make = torch.Generator(DEVICE).manual_seed(seed)
    table = mhc_site.normal(make, VOCABULARY, setup.width)
    ids = torch.randint(0, VOCABULARY, (setup.tokens,), generator=make, device=DEVICE).int()
    if setup.what == "check":
        table[1::7] *= 1e-3
        table[2::7] *= 1e14
        table[3::7] = 0
    table = table.bfloat16()
    if setup.what == "odd":
        table[0, 5], table[1, 9] = math.nan, math.inf
        ids[4], ids[7], ids[8] = 0, 1, VOCABULARY - 1
    return [ids, table, *mhc_site.make_weights(make, 24, setup.width)]


def _outputs(inputs: Sequence[torch.Tensor]) -> list[tuple[Shape, torch.dtype]]:
    tokens, width = len(inputs[0]), inputs[1].shape[1]
    return [
        ((tokens, STREAMS, width), torch.bfloat16),
        ((tokens, STREAMS), torch.float32),
        ((tokens, STREAMS, STREAMS), torch.float32),
        ((tokens, width), torch.bfloat16),
    ]


def _verify(setup: Setup, run: Run) -> list[Gate]:
    if setup.tokens == 0:
        return []
    ids, table, *weights = run.inputs
    streams = table[ids.long()][:, None].expand(-1, STREAMS, -1)
    wrong = run.outputs[0].view(torch.int16) != streams.contiguous().view(torch.int16)
    gates = [count_gate("streams", wrong)]
    gates += mhc_site.site_gates(mhc_site.Weights(*weights), run.outputs)
    if setup.what == "odd":
        gates.append(Gate("has_nan", bool(run.outputs[3][4].isnan().all()), 0.0))
    return gates


def torch_version(
    ids: torch.Tensor, table: torch.Tensor, *weights: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The same computation as a torch user writes it."""
    streams = table[ids][:, None].expand(-1, STREAMS, -1).contiguous()
    return mhc_site.torch_site(streams, *weights)
