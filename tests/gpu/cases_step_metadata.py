"""Cases of kind step_metadata: RoPE angles, window slots, window, completed and visible entries."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from harness import DEVICE, LENGTHS, Bench, Case, Gate, Run, Shape, count_gate

from dsv4c.codegen.kernels import step_metadata as family
from dsv4c.codegen.kernels.step_metadata import Result
from dsv4c.ir.ops.rope import rope_frequencies

KIND = family.KIND
SLOTS, RING, LAST = 5, 640, (1 << 20) - 1


def _angles(theta: float, factor: float, offset: int, dims: int = 64) -> Result:
    original = 65536 if factor > 1 else 0
    return Result("rope_angles", (dims, theta, factor, original, 32.0, 1.0, offset))


WINDOW = (Result("window_slots", (RING,)), Result("window_entries", (RING, 128)))
CSA = (_angles(1.6e5, 16.0, -3), Result("entry_slots", (4, 32)))
HCA = (_angles(1.6e5, 16.0, -127), Result("entry_slots", (128, 1)))
SEEN = Result("visible_entries", (128, 1))
# Flash and Pro; a model of window layers; odd ratios, widths and windows.
RESULTS = {
    "flash": (_angles(1e4, 1.0, 0), *WINDOW, _angles(1.6e5, 16.0, 0), *CSA, *HCA, SEEN),
    "pro": (_angles(1.6e5, 16.0, 0), *WINDOW, *HCA, SEEN, *CSA),
    "swa": (_angles(1e4, 1.0, 0), *WINDOW),
    "odd": (
        *(_angles(1e4, 1.0, offset, 48) for offset in (0, -1, -7, -31, -2)),
        *(Result("window_slots", (256,)), Result("window_entries", (256, 200))),
        *(Result("entry_slots", (2, 64)), Result("visible_entries", (32, 4))),
    ),
}


def variants(arch: str) -> list[family.Params]:
    """Each model."""
    return [family.choose(results, arch) for results in RESULTS.values()]


def cases() -> list[Case]:
    """Every model and length, tokens alone and in batches, an empty batch; then times."""
    found = [make_case(Setup(t, model)) for model in RESULTS for t in LENGTHS]
    found += [make_case(Setup(0, "flash", "empty")), make_case(Setup(64, "flash", "alone"))]
    for pages in (64, 1024):
        for tokens in (1, 8, 64, 256, 4096):
            found.append(make_case(Setup(tokens, "flash", f"p{pages}_time", pages)))
    return found


@dataclass(frozen=True)
class Setup:
    """Shapes and kind of data of one case; a row of the block table has `pages`."""

    tokens: int
    model: str
    what: str = "check"
    pages: int = 8192

    @property
    def name(self) -> str:
        tail = "" if self.what == "check" else f"_{self.what}"
        return f"t{self.tokens}_{self.model}{tail}"

    @property
    def page_count(self) -> int:
        """Long lists for few tokens, so that a case stays small."""
        return self.pages if self.tokens <= 64 or self.pages < 8192 else 1100


def make_case(setup: Setup) -> Case:
    timed, alone = setup.what.endswith("time"), setup.what == "alone"
    results = RESULTS[setup.model]
    outputs = functools.partial(_outputs, setup)
    row = sum(4 * columns for columns in map(functools.partial(_columns, setup), results))
    size = setup.tokens * (row + 8) + (4 * setup.page_count if setup.tokens else 0)
    return Case(
        name=setup.name,
        kernel=family.kernel_name(family.choose(results, "sm_90a"), ""),
        inputs=functools.partial(_inputs, setup),
        outputs=(lambda inputs: 2 * outputs(inputs)) if alone else outputs,
        verify=None if timed else functools.partial(_verify_alone if alone else _verify, setup),
        bench=Bench(bytes=size) if timed else None,
        call=functools.partial(_call_alone, setup) if alone else None,
    )


def _columns(setup: Setup, one: Result) -> int:
    """Elements of a row of a result."""
    if one.op == "visible_entries":
        return int(one.get("page")) * setup.page_count
    names = {"rope_angles": "dims", "window_entries": "window"}
    return int(one.get(names[one.op])) if one.op in names else 1


def _outputs(setup: Setup, inputs: Sequence[torch.Tensor]) -> list[tuple[Shape, torch.dtype]]:
    found: list[tuple[Shape, torch.dtype]] = []
    for one in RESULTS[setup.model]:
        flat = one.op in ("window_slots", "entry_slots")
        dtype = torch.float32 if one.op == "rope_angles" else torch.int32
        tokens = len(inputs[0])
        found.append(((tokens,) if flat else (tokens, _columns(setup, one)), dtype))
    return found


def _inputs(setup: Setup, seed: int) -> list[torch.Tensor]:
    make = torch.Generator(DEVICE).manual_seed(seed)

    def draw(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=make, device=DEVICE, dtype=torch.int32)

    pages = setup.page_count
    most = min(128 * pages, LAST + 1)
    table = draw(0, 1 << 20, SLOTS, pages)
    pos = draw(0, most, setup.tokens)
    slot = draw(0, SLOTS, setup.tokens)
    if not setup.what.endswith("time"):
        edges = [0, 1, 2, 3, 126, 127, 128, 255, 639, 640, most - 1, most - 2]
        edges = torch.tensor(edges, device=DEVICE).clamp(max=most - 1)
        pos[: len(edges)] = edges[: setup.tokens].int()
        slot[5::7] = -1
    paged = any(one.op in ("entry_slots", "visible_entries") for one in RESULTS[setup.model])
    return [pos, slot, table] if paged else [pos, slot]


def _verify(setup: Setup, run: Run) -> list[Gate]:
    pos, slot = (one.long()[:, None] for one in run.inputs[:2])
    table = run.inputs[2].long() if len(run.inputs) > 2 else None
    gates: list[Gate] = []
    for number, (one, out) in enumerate(zip(RESULTS[setup.model], run.outputs, strict=True)):
        name = f"{one.op}_{number}"
        if one.op == "rope_angles":
            gates.append(_check_angles(name, one, run.inputs[0], out))
        else:
            right = _entries(one, pos, slot, table, out.numel() // max(len(out), 1))
            gates.append(count_gate(name, out.long().view_as(right) != right))
    return gates


def _check_angles(name: str, one: Result, pos: torch.Tensor, out: torch.Tensor) -> Gate:
    """Off by at most 2^-23 from cos and sin, in float64, of the fp32 product."""
    dims, theta, factor, original, fast, slow, offset = one.attrs
    freqs = rope_frequencies(int(dims), theta, factor, int(original), fast, slow).to(DEVICE)
    angle = ((pos + int(offset)).clamp(min=0).float()[:, None] * freqs).double()
    error = (out.double() - torch.cat([angle.cos(), angle.sin()], 1)).abs()
    ratio = float(error.nan_to_num(torch.inf).max() * 2**23) if error.numel() else 0.0
    return Gate(name, ratio <= 1, ratio)


def _entries(
    one: Result, pos: torch.Tensor, slot: torch.Tensor, table: torch.Tensor | None, columns: int
) -> torch.Tensor:
    """The right indices [T, columns]."""
    step = torch.arange(columns, device=DEVICE)[None]
    if one.op.startswith("window"):
        ring = int(one.get("ring"))
        entry = pos + step
        if one.op == "window_entries":
            entry = (pos - int(one.get("window")) + 1).clamp(min=0) + step
        return torch.where((slot >= 0) & (entry <= pos), slot * ring + entry % ring, -1)
    assert table is not None
    ratio, page = int(one.get("ratio")), int(one.get("page"))
    if one.op == "entry_slots":
        entry, there = pos // ratio, (pos + 1) % ratio == 0
    else:
        entry, there = step.expand(len(pos), -1), step < (pos + 1) // ratio
    there = there & (slot >= 0)
    at = (entry // page).clamp(max=table.shape[1] - 1)
    return torch.where(there, table[slot.clamp(min=0), at] * page + entry % page, -1)


def _call_alone(setup: Setup, kernel: Callable[..., object], *given: torch.Tensor) -> None:
    pos, slot, table, *outputs = given
    batch, rows = outputs[: len(outputs) // 2], outputs[len(outputs) // 2 :]
    kernel(pos, slot, table, *batch)
    for row in range(setup.tokens):
        one = slice(row, row + 1)
        kernel(pos[one], slot[one], table, *(out[one] for out in rows))


def _verify_alone(setup: Setup, run: Run) -> list[Gate]:
    half = len(run.outputs) // 2
    pairs = zip(run.outputs[:half], run.outputs[half:], strict=True)
    return [
        count_gate(f"alone_{number}", batch.view(torch.int32) != rows.view(torch.int32))
        for number, (batch, rows) in enumerate(pairs)
    ]
