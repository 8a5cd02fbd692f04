"""Cases of kind rms_norm: RMSNorm with a weight."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from harness import (
    DEVICE,
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

from dsv4c.codegen.kernels import rms_norm as family

KIND = family.KIND
EPS = 1e-6
# The query latents of the bundled model, Flash and Pro; a width with a ragged end; a hidden size.
WIDTHS = ((128, "bf16"), (1024, "bf16"), (1536, "bf16"), (520, "bf16"), (7168, "f32"))
TIMED = (1, 8, 64, 256, 4096)


def variants(arch: str) -> list[family.Params]:
    """Each width."""
    return [family.choose(width, weight, arch) for width, weight in WIDTHS]


def cases() -> list[Case]:
    """Every width and length; odd values, rows alone and in batches, an empty batch; then times."""
    found = [make_case(Setup(t, width, weight)) for width, weight in WIDTHS for t in LENGTHS]
    for what in ("odd", "alone", "empty"):
        found.append(make_case(Setup(0 if what == "empty" else 64, 1024, "bf16", what)))
    found += [make_case(Setup(t, w, "bf16", "time")) for w in (1024, 1536) for t in TIMED]
    return found


@dataclass(frozen=True)
class Setup:
    """Shapes and kind of data of one case."""

    tokens: int
    width: int
    weight: str
    what: str = "check"

    @property
    def name(self) -> str:
        tail = "" if self.what == "check" else f"_{self.what}"
        return f"t{self.tokens}_{self.width}{tail}"


def make_case(setup: Setup) -> Case:
    timed, alone = setup.what == "time", setup.what == "alone"
    size = setup.width * (4 * setup.tokens + (4 if setup.weight == "f32" else 2))
    return Case(
        name=setup.name,
        kernel=family.kernel_name(family.choose(setup.width, setup.weight, "sm_90a"), ""),
        inputs=functools.partial(_inputs, setup),
        outputs=_twice if alone else _outputs,
        verify=None if timed else _verify_alone if alone else _verify,
        bench=Bench(bytes=size, baselines={"eager": torch_version}) if timed else None,
        call=_call_alone if alone else None,
    )


def _inputs(setup: Setup, seed: int) -> list[torch.Tensor]:
    make = torch.Generator(DEVICE).manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=make, device=DEVICE)

    x = normal(setup.tokens, setup.width)
    if setup.what not in ("time", "alone"):
        # Norms from nothing to huge: eps rules below 1e-3; squares of 1e15 still sum in fp32.
        sizes = torch.tensor([1.0, 1.0, 40.0, 1e-3, 1e-30, 0.0, 1e15], device=DEVICE)
        x = x * sizes[torch.randint(0, 7, (setup.tokens, 1), generator=make, device=DEVICE)]
    x = x.bfloat16()
    if setup.what == "odd":
        x[3, 5], x[4, 460], x[5, 461] = torch.nan, torch.inf, -torch.inf
    weight = 1 + 0.3 * normal(setup.width)
    return [x, weight if setup.weight == "f32" else weight.bfloat16()]


def _outputs(inputs: Sequence[torch.Tensor]) -> list[tuple[Shape, torch.dtype]]:
    return [(tuple(inputs[0].shape), torch.bfloat16)]


def _twice(inputs: Sequence[torch.Tensor]) -> list[tuple[Shape, torch.dtype]]:
    return 2 * _outputs(inputs)


def _verify(run: Run) -> list[Gate]:
    x, weight = (one.double() for one in run.inputs)
    if not len(x):
        return []
    reference = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + EPS) * weight
    bound = rounding_bound(reference, reference.abs(), x.shape[1])
    return [compare("y", run.outputs[0], reference, bound)]


def _call_alone(
    kernel: Callable[..., object],
    x: torch.Tensor,
    weight: torch.Tensor,
    batch: torch.Tensor,
    rows: torch.Tensor,
) -> None:
    kernel(x, weight, batch)
    for row in range(len(x)):
        kernel(x[row : row + 1], weight, rows[row : row + 1])


def _verify_alone(run: Run) -> list[Gate]:
    batch, rows = (out.view(torch.int16) for out in run.outputs)
    return [count_gate("alone", batch != rows)]


def torch_version(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.rms_norm(x, (x.shape[1],), weight, EPS)
