"""Cases of kind sample: the kernel must choose the very token of the reference in every row."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from harness import BATCHES, DEVICE, Bench, Case, Gate, Run, Shape, count_gate

from dsv4c.codegen.kernels import sample as family
from dsv4c.ir.ops.sample import sample_row

KIND = family.KIND
# Flash and Pro, the bundled model, one below a warp's worth, one that is odd in every way.
VOCABS = (129280, 2048, 17, 33333)
# temperature, top_k, top_p of timed cases
MODES = {
    "greedy": (0.0, 0, 1.0),
    "all": (0.8, 0, 1.0),
    "p95": (0.8, 0, 0.95),
    "k50_p95": (0.8, 50, 0.95),
}
HEATS = (0.0, 1.0, 0.7, 1.5, 1e-3, 1e-42, 8.0, torch.inf, -1.0, torch.nan, 1e30)
MOSTS = (0, 1, 5, 50, 1000, -3, 1 << 20)
KEPTS = (1.0, 0.95, 0.5, 0.1, 0.0, 1e-3, 0.999999, 2.0, torch.nan, -1.0)


def variants(arch: str) -> list[family.Params]:
    """Each vocabulary."""
    return [family.choose(vocab, arch) for vocab in VOCABS]


def cases() -> list[Case]:
    """Every vocabulary, number of rows and kind of logits; an empty batch; then times."""
    found = [make_case(Setup(rows, vocab)) for vocab in VOCABS for rows in BATCHES]
    for vocab in VOCABS:
        for what in ("equal", "odd", "peak", "flat", "wide"):
            found.append(make_case(Setup(33, vocab, what)))
    found.append(make_case(Setup(0, 2048, "empty")))
    for rows in (1, 8, 64, 256):
        found += [make_case(Setup(rows, 129280, f"{mode}_time")) for mode in MODES]
    return found


@dataclass(frozen=True)
class Setup:
    """Shapes and kind of data of one case."""

    rows: int
    vocab: int
    what: str = "check"

    @property
    def name(self) -> str:
        tail = "" if self.what == "check" else f"_{self.what}"
        return f"r{self.rows}_{self.vocab}{tail}"


def make_case(setup: Setup) -> Case:
    timed = setup.what.endswith("time")
    baseline = greedy if setup.what.startswith("greedy") else nucleus
    return Case(
        name=setup.name,
        kernel=family.kernel_name(family.choose(setup.vocab, "sm_90a"), ""),
        inputs=functools.partial(_inputs, setup),
        outputs=_outputs,
        verify=None if timed else _verify,
        bench=Bench(setup.rows * (4 * setup.vocab + 28), baselines={"eager": baseline})
        if timed
        else None,
    )


def _inputs(setup: Setup, seed: int) -> list[torch.Tensor]:
    make = torch.Generator(DEVICE).manual_seed(seed)
    rows, vocab = setup.rows, setup.vocab
    logits = _logits(setup, make)

    def column(values: Sequence[float], dtype: torch.dtype) -> torch.Tensor:
        pick = torch.randint(0, len(values), (rows,), generator=make, device=DEVICE)
        return torch.tensor(values, device=DEVICE)[pick].to(dtype)

    word = functools.partial(torch.randint, -(1 << 31), 1 << 31, generator=make, device=DEVICE)
    mode = setup.what.removesuffix("_time")
    heat, most, kept = ([one] for one in MODES[mode]) if mode in MODES else (HEATS, MOSTS, KEPTS)
    return [
        logits,
        column(heat, torch.float32),
        column([min(one, 2 * vocab) for one in most], torch.int32),
        column(kept, torch.float32),
        word((rows, 2)).int(),
        word((rows,)).int(),
    ]


def _logits(setup: Setup, make: torch.Generator) -> torch.Tensor:
    rows, vocab, what = setup.rows, setup.vocab, setup.what
    x = 3 * torch.randn(rows, vocab, generator=make, device=DEVICE)
    if what == "equal":  # many equal ones, zeros of both signs
        x = (x / 2).round() / 2
    elif what == "odd":
        pick = torch.randint(0, 6, (rows, vocab), generator=make, device=DEVICE)
        odd = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e-40, 3e38, -3e38], device=DEVICE)
        x = torch.where(torch.rand(rows, vocab, generator=make, device=DEVICE) < 0.2, odd[pick], x)
        x[::3] = torch.where(x[::3] > 1e38, 1.0, x[::3])  # rows without a huge one
        x[4], x[7], x[8] = torch.nan, -torch.inf, torch.where(x[8] > 0, torch.nan, -torch.inf)
    elif what == "peak":
        x[:, vocab // 3] = 40
    elif what == "flat":
        x = torch.full_like(x, -1.25)
    elif what == "wide":
        x = 1e4 * x
    return x


def _outputs(inputs: Sequence[torch.Tensor]) -> list[tuple[Shape, torch.dtype]]:
    return [((len(inputs[0]),), torch.int32)]


def _verify(run: Run) -> list[Gate]:
    logits, *columns = (one.cpu() for one in run.inputs)
    rows = zip(logits, *(column.tolist() for column in columns), strict=True)
    right = torch.tensor([sample_row(*row) for row in rows], dtype=torch.int32)
    found = run.outputs[0].cpu()
    wrong = found != right
    detail = ""
    if wrong.any():
        row = int(wrong.nonzero()[0])
        given = [column[row].tolist() for column in columns]
        detail = f"row {row}: {int(found[row])}, not {int(right[row])}; {given}"
    return [count_gate("ids", wrong, detail)]


def greedy(logits: torch.Tensor, *_: object) -> torch.Tensor:
    return logits.argmax(-1)


def nucleus(
    logits: torch.Tensor, heat: torch.Tensor, _: object, kept: torch.Tensor, *__: object
) -> torch.Tensor:
    """Top-p by sorting, with the generator of torch."""
    best, order = (logits / heat[:, None]).sort(-1, descending=True)
    probs = best.softmax(-1)
    probs = torch.where(probs.cumsum(-1) - probs < kept[:, None], probs, 0.0)
    return order.gather(1, torch.multinomial(probs, 1))
