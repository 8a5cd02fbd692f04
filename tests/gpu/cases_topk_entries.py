"""Cases of kind topk_entries: exact choice among visible scores, ties, no numbers, odd lengths."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from harness import CHUNKS, DEVICE, Bench, Case, Gate, Run, count_gate

from dsv4c.codegen.kernels import topk_entries as family

KIND = family.KIND
PAGE, RATIO = family.PAGE, 4
KS = (64, 512, 1024)
WILD = 0x7F7F7F7F


def variants(arch: str) -> list[family.Params]:
    """Tiny, Flash and Pro."""
    return [family.Params(k, RATIO) for k in KS]


def cases() -> list[Case]:
    """Every row count, many lengths, kinds of scores; then times."""
    found = [
        Setup(tokens, k, entries, what)
        for k in KS
        for tokens, entries in (
            (1, 1300), (3, 8000), (8, 4100), (17, 9000), (40, 5000), (64, 3000), (129, 4500), (256, 33000), (300, 2600)
        )
        for what in ("normal", "ties")
    ]  # fmt: skip
    for tokens in (1, 20, 40, 70, 300):
        found += [
            Setup(tokens, 512, 33000, what)
            for what in ("zeros", "odd", "near", "spread", "rising", "padding", "alone")
        ]
    found += [Setup(t, k, 33000, "prefill") for k in KS for t in CHUNKS]
    found += [Setup(t, 512, 1024, "prefill") for t in CHUNKS]
    found += [
        Setup(0, 512, 1024, "empty"),
        Setup(0, 512, 33000, "empty"),
        Setup(2, 1024, 262144, "normal"),
        Setup(2, 512, 262144, "zeros"),
        Setup(3, 512, 262144, "near"),
        *(Setup(t, k, 33000, "zeros") for k in (64, 1024) for t in (3, 50, 260)),
    ]
    times = [
        Setup(b, k, entries, "time")
        for k in (512, 1024)
        for entries in (1024, 8192, 32768)
        for b in (1, 8, 64, 256)
    ]
    times += [Setup(1, 512, 262144, "time"), *(Setup(t, 512, 32768, "time_zeros") for t in (1, 64))]
    times += [Setup(4096, 512, entries, "time_prefill") for entries in (1024, 8192)]
    return [_case(setup) for setup in (*found, *times)]


@dataclass(frozen=True)
class Setup:
    """Shapes and kind of scores of one case; `entries` is the longest row."""

    tokens: int
    k: int
    entries: int
    what: str

    @property
    def name(self) -> str:
        return f"t{self.tokens}_k{self.k}_e{self.entries}_{self.what}"

    @property
    def timed(self) -> bool:
        return self.what.startswith("time")

    @property
    def columns(self) -> int:
        """Pages of a row of the block table."""
        return -(-self.entries // PAGE) + (0 if self.timed else 2)


def _case(setup: Setup) -> Case:
    alone = setup.what == "alone"
    out = (setup.tokens, setup.k)
    return Case(
        name=setup.name,
        kernel=family.kernel_name(family.Params(setup.k, RATIO), "sm_90a"),
        inputs=functools.partial(_inputs, setup),
        outputs=lambda inputs: [(out, torch.int32)] * (2 if alone else 1),
        verify=None if setup.timed else functools.partial(_verify, setup),
        bench=_bench(setup) if setup.timed else None,
        call=_one_by_one if alone else None,
    )


def _bench(setup: Setup) -> Bench:
    scored = setup.tokens * setup.entries
    if setup.what == "time_prefill":
        scored = setup.tokens * (setup.entries - setup.tokens // (2 * RATIO))
    baselines: dict[str, Callable[..., object]] = {}
    if setup.tokens <= 64 and setup.k == 512 and setup.what == "time":
        baselines = {"torch_topk": functools.partial(_torch_version, setup.k)}
    return Bench(bytes=4 * scored + 4 * setup.tokens * setup.k, baselines=baselines)


def _one_by_one(kernel: Callable[..., object], *given: torch.Tensor) -> None:
    """The whole batch into the first output, one token at a time into the second."""
    scores, pos, slot, table, batch, alone = given
    kernel(scores, pos, slot, table, batch)
    alone.copy_(batch)
    for t in range(min(scores.shape[0], 40)):
        own = slice(t, t + 1)
        kernel(scores[own], pos[own], slot[own], table, alone[own])


# --- inputs ---------------------------------------------------------------------------------


def _inputs(setup: Setup, seed: int) -> list[torch.Tensor]:
    make = torch.Generator(DEVICE).manual_seed(seed * 1000 + setup.tokens + setup.entries + setup.k)
    tokens, entries = setup.tokens, setup.entries
    width = setup.columns * PAGE
    scores = _scores(setup, (tokens, width), make)
    seen = torch.randint(1, entries + 1, (tokens,), generator=make, device=DEVICE)
    special = [entries, setup.k, setup.k + 1, 4097, 0, entries - 1, 1, 4096, setup.k - 1, 8191]
    seen[::2] = torch.tensor(special, device=DEVICE)[
        torch.arange(tokens, device=DEVICE)[::2] // 2 % len(special)
    ].clamp(0, entries)
    if setup.timed:
        seen[:] = entries
    if "prefill" in setup.what:
        seen = entries - tokens // RATIO + torch.arange(tokens, device=DEVICE) // RATIO
        seen = seen.clamp_min(0)
    slots = max(tokens, 1)
    slot = torch.randperm(slots, generator=make, device=DEVICE)[:tokens]
    if "prefill" in setup.what:
        slot = torch.zeros_like(slot)
    if setup.what == "padding":
        slot[1::2] = -1
    table = torch.randint(0, 1 << 24, (slots, setup.columns), generator=make, device=DEVICE)
    if not setup.timed:
        # what is not visible is never looked at: neither scores nor pages
        hidden = torch.arange(width, device=DEVICE) >= torch.where(slot < 0, 0, seen)[:, None]
        scores[hidden] = torch.tensor([math.inf, math.nan, 3e38], device=DEVICE)[
            torch.randint(0, 3, (int(hidden.sum()),), generator=make, device=DEVICE)
        ]
        if setup.what != "prefill":
            page = torch.arange(setup.columns, device=DEVICE)
            wild = page >= -(-seen // PAGE)[:, None]
            rows = torch.where(slot < 0, slots, slot)
            padded = torch.cat([table, table[:1]])
            padded[rows] = torch.where(wild, WILD, padded[rows])
            table = padded[:slots]
    # (pos + 1) // RATIO entries are seen
    pos = seen * RATIO + torch.randint(0, RATIO, (tokens,), generator=make, device=DEVICE) - 1
    pos = pos.clamp_min(0)
    return [scores, pos.int(), slot.int(), table.int()]


def _scores(setup: Setup, shape: tuple[int, int], make: torch.Generator) -> torch.Tensor:
    scores = torch.randn(shape, generator=make, device=DEVICE) * 3 + 1
    what = setup.what
    if what == "ties":
        scores = (scores * 2).round() / 2
    elif what in ("zeros", "time_zeros"):
        # most heads are relu'd away: zeros of either sign, few scores beside them
        few = torch.rand(shape, generator=make, device=DEVICE) < 0.01
        sign = torch.randint(0, 2, shape, generator=make, device=DEVICE) * 2.0 - 1
        scores = torch.where(few, scores, 0.0 * sign)
    elif what == "odd":
        chance = torch.rand(shape, generator=make, device=DEVICE)
        scores = torch.where(chance < 0.3, math.nan, scores)
        scores = torch.where((chance > 0.3) & (chance < 0.6), -math.inf, scores)
        scores = torch.where((chance > 0.6) & (chance < 0.601), math.inf, scores)
        scores[::3] = torch.where(chance[::3] < 0.99, scores[::3] * math.nan, scores[::3])
    elif what == "near":
        # one leading digit for all: the list does not fit, and the last bits decide
        scores = 1 + torch.randint(0, 5000, shape, generator=make, device=DEVICE) * 2.0**-23
    elif what == "spread":
        exponent = torch.randint(-140, 127, shape, generator=make, device=DEVICE)
        scores = torch.ldexp(scores, exponent)
    elif what == "rising":
        scores = torch.arange(shape[1], device=DEVICE).expand(shape) * 1e-3 - 7
        scores = scores.contiguous()
    return scores


# --- reference ------------------------------------------------------------------------------


def _verify(setup: Setup, run: Run) -> list[Gate]:
    scores, pos, slot, table = run.inputs
    y = run.outputs[0]
    gates: list[Gate] = []
    if setup.what == "alone":
        gates.append(count_gate("alone", y[:40] != run.outputs[1][:40]))
    if setup.tokens == 0:
        return gates
    wrong = [
        y[part] != _expected(setup.k, scores[part], pos[part], slot[part], table)
        for part in torch.arange(setup.tokens, device=DEVICE).split(256)
    ]
    return [*gates, count_gate("entries", torch.cat(wrong))]


def _expected(k: int, *given: torch.Tensor) -> torch.Tensor:
    """By sorting: highest score first, ties by rising entry."""
    scores, pos, slot, table = given
    seen = torch.where(slot < 0, 0, torch.div(pos + 1, RATIO, rounding_mode="floor"))
    entry = torch.arange(scores.shape[1], device=DEVICE)
    good = (entry < seen[:, None]) & (scores > -math.inf)
    order = torch.where(good, scores, -math.inf).sort(dim=1, descending=True, stable=True).indices
    taken = torch.arange(scores.shape[1], device=DEVICE) < good.sum(1)[:, None].clamp_max(k)
    order = torch.where(taken, order, scores.shape[1])[:, :k].sort(1).values
    order = torch.nn.functional.pad(order, (0, k - order.shape[1]), value=scores.shape[1])
    inside = order.clamp_max(scores.shape[1] - 1)
    pages = table[slot.clamp_min(0).long()[:, None], inside // PAGE].long()
    return torch.where(order < scores.shape[1], pages * PAGE + inside % PAGE, -1).int()


def _torch_version(k: int, *given: torch.Tensor) -> torch.Tensor:
    """torch.topk, of any order among ties, and the block table; every entry is visible."""
    scores, _, slot, table = given
    order = scores.topk(k, 1).indices
    return table[slot.long()[:, None], order // PAGE] * PAGE + order % PAGE
