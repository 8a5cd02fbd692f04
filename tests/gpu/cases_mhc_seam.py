"""Cases of kind mhc_seam: post of a site of hyper-connections, pre of the next, RMSNorm."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mhc_site
import torch
from harness import BF16_ROUNDING, DEVICE, LENGTHS, Bench, Case, Gate, Run, Shape, compare
from mhc_site import MODELS, RULED, STREAMS, WIDTHS

from dsv4c.codegen.kernels import mhc_seam as family

KIND = family.KIND
INPUTS = 8
EDGES = (7, 9, 120, 121, 240, 241)
TIMED = (1, 8, 16, 64, 128, 256, 1024, 4096)


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
    return [family.choose(width) for width in WIDTHS.values()]


def cases() -> list[Case]:
    """Every width and length; odd values and streams that cancel; the same bits again; then times."""
    found = [make_case(Setup(model, tokens)) for model in MODELS for tokens in LENGTHS]
    found += [make_case(Setup(model, tokens)) for model in ("flash", "tiny") for tokens in EDGES]
    for model in MODELS:
        found += [make_case(Setup(model, tokens, "odd")) for tokens in (64, 300)]
        found += [make_case(Setup(model, tokens, "cancel")) for tokens in (2, 5, 300)]
        found += [
            mhc_site.repeat_case(make_case(Setup(model, t, "repeat")), INPUTS) for t in (5, 300)
        ]
        found += [_chain_case(Setup(model, tokens, "chain")) for tokens in (7, 300)]
        found += [
            mhc_site.batch_case(
                make_case(Setup(model, most, "batch", few)), INPUTS, (0, 1, 2, 3), few
            )
            for few, most in mhc_site.BATCHES
        ]
    found += [make_case(Setup(model, tokens)) for model in RULED for tokens in (*LENGTHS, 9)]
    found.append(make_case(Setup("flash", 0, "empty")))
    return found + [make_case(Setup(m, t, "time")) for m in ("flash", "pro") for t in TIMED]


def make_case(setup: Setup) -> Case:
    width, tokens = setup.width, setup.tokens
    moved = 2 * tokens * width * (2 * STREAMS + 2) + 4 * 24 * STREAMS * width + 2 * width
    baselines = {"eager": torch_version, "compile": _compiled} if setup.model == "flash" else {}
    timed = setup.what == "time"
    return Case(
        name=setup.name,
        kernel=family.kernel_name(family.choose(width), "sm_90a"),
        inputs=functools.partial(_inputs, setup),
        outputs=_outputs,
        verify=None if timed else functools.partial(_verify, setup),
        bench=Bench(moved + tokens * 160, baselines=baselines) if timed else None,
    )


def _inputs(setup: Setup, seed: int) -> list[torch.Tensor]:
    make = torch.Generator(DEVICE).manual_seed(seed)
    given = mhc_site.make_streams(make, setup.tokens, setup.width, sizes=setup.what == "check")
    if setup.what == "odd":
        streams, y, post, comb = given
        width = setup.width  # down to 32
        streams[2, 1, 5], streams[5, 3, 200 % width], y[9, 7] = math.nan, math.nan, math.nan
        streams[3, 2, 60 % width], y[17, 61 % width], post[20, 1], comb[21, 2, 3] = (
            math.inf,
            -math.inf,
            math.nan,
            math.nan,
        )
    given += mhc_site.make_weights(make, 24, setup.width)
    if setup.what in ("cancel", "batch"):
        mhc_site.cancel(given[:6])
    return given


def _outputs(inputs: Sequence[torch.Tensor]) -> list[tuple[Shape, torch.dtype]]:
    streams, _, post, comb = inputs[:4]
    return [
        (tuple(streams.shape), torch.bfloat16),
        (tuple(post.shape), torch.float32),
        (tuple(comb.shape), torch.float32),
        ((streams.shape[0], streams.shape[2]), torch.bfloat16),
    ]


def _verify(setup: Setup, run: Run) -> list[Gate]:
    if setup.tokens == 0:
        return []
    expanded = mhc_site.expand(*run.inputs[:4])
    bound = expanded.bound + BF16_ROUNDING * expanded.value.abs()
    gates = [compare("streams", run.outputs[0], expanded.value, bound)]
    gates += mhc_site.site_gates(mhc_site.Weights(*run.inputs[4:]), run.outputs)
    if setup.what == "odd":
        rows = run.outputs[3].isnan().any(1).nonzero()[:, 0].tolist()
        gates.append(Gate("rows", rows == [2, 3, 5, 9, 17, 20, 21], 0.0, str(rows)))
    return gates


def _chain_case(setup: Setup) -> Case:
    """Sites one after another in a graph, overlapped, against the same one at a time."""

    def call(
        kernel: mhc_site.Call, inputs: Sequence[torch.Tensor], alone: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        turns = [mhc_site.made(_outputs(inputs)) for _ in range(3)]
        streams, y, post, comb = inputs[:4]

        def chain(after_each: Callable[[], object]) -> list[torch.Tensor]:
            for out, value in zip(turns[2], (streams, post, comb, y), strict=True):
                out.copy_(value)
            for step in range(12):
                last = turns[(step + 2) % 3]
                kernel(last[0], last[3], last[1], last[2], *inputs[4:], *turns[step % 3])
                after_each()
            return turns[11 % 3]

        for out, value in zip(alone, chain(torch.cuda.synchronize), strict=True):
            out.copy_(value)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            overlapped = chain(lambda: None)
        for _ in range(5):
            graph.replay()
        return mhc_site.different_bytes(alone, overlapped)

    return mhc_site.counted(make_case(setup), INPUTS, call)


def torch_version(
    streams: torch.Tensor,
    y: torch.Tensor,
    post: torch.Tensor,
    comb: torch.Tensor,
    *weights: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """The same computation as a torch user writes it."""
    return mhc_site.torch_site(mhc_site.torch_expand(streams, y, post, comb), *weights)


@functools.cache
def _compile(tokens: int):
    torch.compiler.reset()
    return torch.compile(torch_version, dynamic=False)


def _compiled(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return _compile(given[0].shape[0])(*given)
