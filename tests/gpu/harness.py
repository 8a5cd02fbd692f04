"""What every kernel check on a GPU needs: cases, poisoned and guarded buffers, numeric gates.

A family adds a module `cases_<kind>.py` beside this file with

    KIND                    the family's kind
    variants(arch)          the parameters that are compiled (`scripts/build_gpu_kernels.py`)
    cases()                 what is checked and timed (`scripts/gpu_kernels.py`)

Needs torch and nothing else, so that it runs on a machine without a compiler.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

# Asks the driver's management library: the process stays able to fork and use CUDA in children.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
# Without a GPU the cases run on the CPU, with a stand-in for the kernel: the gates are tested so.
DEVICE = os.environ.get("DSV4C_CASE_DEVICE", "cuda" if torch.cuda.is_available() else "cpu")
GUARD = 256
# 0xFF is NaN in f32, bf16, E4M3 and E8M0 but -1 as an index; 0x7F is a large finite bf16 value.
POISONS = (0xFF, 0x7F, 0x00)
BF16_ROUNDING = 2.0**-8
F32_ROUNDING = 2.0**-24
SLOPE_LIMIT = 1e-3
# Rows that every variant is checked at (`required.py`): tokens of a decode batch, of a chunk of
# prefill, and both.
BATCHES = (1, 3, 8, 64, 129, 256)
CHUNKS = (1, 127, 128, 129, 4096)
LENGTHS = tuple(sorted({*BATCHES, *CHUNKS}))
DIFFERENCE_LIMIT = 1e-5

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """One call, as `Case.verify` sees it.

    Args:
        inputs: what the kernel was given, states as they were before the call.
        states: state buffers after the call, by position in `inputs`.
        outputs: in order.
    """

    inputs: Sequence[torch.Tensor]
    states: Mapping[int, torch.Tensor]
    outputs: Sequence[torch.Tensor]


@dataclass(frozen=True)
class Gate:
    """One verdict: `ratio` is the worst error over its bound, or a count of wrong items."""

    name: str
    ok: bool
    ratio: float
    detail: str = ""
    row_l2: float = 0.0
    column_l2: float = 0.0
    slope: float = 0.0


@dataclass(frozen=True)
class Bench:
    """How a case is timed.

    Args:
        bytes: the fewest bytes that must move (each input read once, each output written once).
        flops: the fewest floating-point operations, where they can be the floor.
        baselines: other implementations by name; called with the inputs, they return or write
            the same results.
    """

    bytes: int
    flops: int = 0
    baselines: Mapping[str, Callable[..., object]] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One set of shapes and data for one kernel.

    Args:
        name: unique within the family; says the shapes, rows as "t64" or "r64".
        kernel: function of the library.
        inputs: seed -> tensors on DEVICE in the order of the calling convention.
        outputs: inputs -> shape and dtype of each output.
        verify: the gates; None for a case that is only timed.
        states: positions of inputs that the kernel writes in place.
        bench: None for a case that is only checked.
        call: how the kernel is called: (kernel, *inputs, *outputs); once, by default.
        late: positions of inputs that the kernel before writes, where they are not those of late.py.
    """

    name: str
    kernel: str
    inputs: Callable[[int], list[torch.Tensor]]
    outputs: Callable[[Sequence[torch.Tensor]], list[tuple[Shape, torch.dtype]]]
    verify: Callable[[Run], list[Gate]] | None
    states: tuple[int, ...] = ()
    bench: Bench | None = None
    call: Callable[..., object] | None = None
    late: tuple[int, ...] | None = None


class Guarded:
    """A tensor between two guard bands, all filled with one byte.

    Args:
        shape: of the tensor.
        dtype: of the tensor.
        poison: the byte.
    """

    def __init__(self, shape: Shape, dtype: torch.dtype, poison: int) -> None:
        size = math.prod(shape) * dtype.itemsize
        self._poison = poison
        self._end = GUARD + size
        padded = GUARD + size + (-size) % GUARD + GUARD
        self._bytes = torch.full((padded,), poison, dtype=torch.uint8, device=DEVICE)
        self.tensor = self._bytes[GUARD : self._end].view(dtype).view(shape)

    def intact(self) -> bool:
        """Nothing was written before or behind the tensor."""
        bands = (self._bytes[:GUARD], self._bytes[self._end :])
        return all(bool((band == self._poison).all()) for band in bands)


def check(case: Case, kernel: Callable[..., object], seed: int = 0) -> list[Gate]:
    """Run a case on fresh data with every poison, twice with the first, and apply its gates."""
    assert case.verify is not None
    inputs = case.inputs(seed)
    call = functools.partial(case.call, kernel) if case.call else kernel
    runs, guards = [], True
    for poison in (*POISONS, POISONS[0]):
        run, intact = _run(case, call, inputs, poison)
        guards = guards and intact
        runs.append(run)
    gates = case.verify(runs[0])
    # The last run repeats the first; the others differ from it in what the buffers held before.
    same = [_same_bits(runs[0], run) for run in runs[1:]]
    gates.append(Gate("poison", all(same[:-1]), same[:-1].count(False)))
    gates.append(Gate("repeat", same[-1], float(not same[-1])))
    gates.append(Gate("guards", guards, float(not guards)))
    return gates


def _run(
    case: Case, call: Callable[..., object], inputs: Sequence[torch.Tensor], poison: int
) -> tuple[Run, bool]:
    outputs = [Guarded(shape, dtype, poison) for shape, dtype in case.outputs(inputs)]
    states = {i: Guarded(tuple(inputs[i].shape), inputs[i].dtype, poison) for i in case.states}
    for i, state in states.items():
        state.tensor.copy_(inputs[i])
    given = [states[i].tensor if i in states else value for i, value in enumerate(inputs)]
    call(*given, *(out.tensor for out in outputs))
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    intact = all(buffer.intact() for buffer in (*outputs, *states.values()))
    after = {i: state.tensor for i, state in states.items()}
    return Run(inputs, after, [out.tensor for out in outputs]), intact


def _same_bits(one: Run, other: Run) -> bool:
    pairs = [*zip(one.outputs, other.outputs, strict=True)]
    pairs += [(one.states[i], other.states[i]) for i in one.states]
    return all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in pairs)


def rounding_bound(
    reference: torch.Tensor,
    magnitude: torch.Tensor,
    terms: int,
    c: float = 4.0,
    out: float = BF16_ROUNDING,
) -> torch.Tensor:
    """u_out * |r| + c * u_acc * sqrt(K) * (|A||B|), per element, with fp32 accumulation.

    Args:
        reference: r, float64.
        magnitude: the same formula on absolute values, float64.
        terms: K, the number of accumulated terms.
        c: at most 4.
        out: unit roundoff of the output's dtype.
    """
    return out * reference.abs() + c * F32_ROUNDING * math.sqrt(terms) * magnitude


def compare(
    name: str, value: torch.Tensor, reference: torch.Tensor, bound: torch.Tensor, l2: float = 4e-3
) -> Gate:
    """Gates 2 to 5 of the numeric contract on float tensors; the last dim is the columns.

    The slope is taken on the reference rounded to the output's dtype: where outputs are inputs
    times a factor close to 1, as in a norm, all roundings of a row may go the same way, and the
    correctly rounded row itself has a slope that is off by up to 2e-3 in bf16. A row's largest
    elements, all of one value where they are clamped, may be rounded the other way if the bound
    lets what is rounded lie on either side of a tie.

    Args:
        name: of the gate.
        value: what the kernel gave.
        reference: float64, same shape.
        bound: largest permitted |value - reference|, same shape.
        l2: largest permitted relative L2 error of a row; one bf16 rounding gives 1.7e-3.
    """
    y, r = value.double(), reference.double()
    for mask in (torch.isnan, torch.isposinf, torch.isneginf):
        wrong = int((mask(y) != mask(r)).sum())
        if wrong:
            return Gate(name, False, math.inf, f"{wrong} elements differ in {mask.__name__}")
    finite = torch.isfinite(r)
    y, r, bound = (torch.where(finite, t, 0.0) for t in (y, r, bound))
    error = (y - r).abs()
    # 0/0 is no error: both are exactly zero.
    ratios = torch.where(error == 0, 0.0, error / bound)
    ratio = float(ratios.max()) if ratios.numel() else 0.0
    rows_y, rows_r = y.reshape(-1, y.shape[-1]), r.reshape(-1, r.shape[-1])
    row_l2 = _worst_l2(rows_y, rows_r, 1)
    column_l2 = _worst_l2(rows_y, rows_r, 0) if rows_r.shape[0] > 1 else 0.0
    slack = (bound - torch.finfo(value.dtype).eps / 2 * r.abs()).clamp_min(0.0)
    slope, slope_ratio = _worst_slope(rows_y, rows_r, slack.reshape(rows_r.shape), value.dtype)
    both = float((y * y).sum() + (r * r).sum())
    difference = 1 - 2 * float((y * r).sum()) / both if both else 0.0
    ok = ratio <= 1 and row_l2 <= l2 and slope_ratio <= 1 and difference <= DIFFERENCE_LIMIT
    detail = "" if ok else _first_wrong(ratios, value, reference)
    return Gate(name, ok and math.isfinite(ratio), ratio, detail, row_l2, column_l2, slope)


def _worst_l2(y: torch.Tensor, r: torch.Tensor, dim: int) -> float:
    norm = r.norm(dim=dim)
    error = (y - r).norm(dim=dim)
    relative = torch.where(error == 0, 0.0, error / norm)
    return float(relative.max()) if relative.numel() else 0.0


def _worst_slope(
    y: torch.Tensor, r: torch.Tensor, slack: torch.Tensor, dtype: torch.dtype
) -> tuple[float, float]:
    """Largest |slope - 1| of a row's least-squares line through zero, and over its limit.

    Zero rows do not count. `slack`: how far y may be from r before it is rounded.
    """
    rounded, low, high = (t.to(dtype).double() for t in (r, r - slack, r + slack))
    square = (rounded * rounded).sum(1)
    off = torch.where(square > 0, ((y * rounded).sum(1) / square - 1).abs(), 0.0)
    if not off.numel():
        return 0.0, 0.0
    tie = (low != high) & (rounded.abs() == rounded.abs().amax(1, keepdim=True))
    share = torch.where(square > 0, torch.where(tie, rounded * rounded, 0.0).sum(1) / square, 0.0)
    limit = (share * torch.finfo(dtype).eps).clamp_min(SLOPE_LIMIT)
    return float(off.max()), float((off / limit).max())


def _first_wrong(ratios: torch.Tensor, y: torch.Tensor, r: torch.Tensor) -> str:
    at = tuple(int(i) for i in torch.unravel_index(ratios.nan_to_num(math.inf).argmax(), y.shape))
    count = int((ratios > 1).sum())
    return f"{count} beyond the bound; worst at {at}: {float(y[at]):.6g}, not {float(r[at]):.6g}"


def count_gate(name: str, wrong: torch.Tensor, detail: str = "") -> Gate:
    """A gate on a mask of wrong items: none may be set; `ratio` is how many are."""
    count = int(wrong.sum())
    if count and not detail:
        detail = f"first wrong at {[int(i) for i in wrong.nonzero()[0]]}"
    return Gate(name, count == 0, float(count), detail)
