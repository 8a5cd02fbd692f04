"""Cases of kind index_scores: paged MXFP4 and bf16 keys, relu, head weights, visibility."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from harness import (
    BATCHES,
    CHUNKS,
    DEVICE,
    F32_ROUNDING,
    Bench,
    Case,
    Gate,
    Run,
    compare,
    count_gate,
    rounding_bound,
)
from index_keys import (
    SPOILED,
    change_hidden,
    decoded,
    edges,
    every_code,
    rounded,
    spoil,
    spoil_some,
    sums,
    values,
)

from dsv4c.codegen.kernels import index_scores as family

KIND = family.KIND
DIM, PAGE, RATIO = family.DIM, family.PAGE, 4
HEADS = (8, 32, 64)
# Pages whose bytes lie beyond 2^32.
FAR_PAGES = {"mxfp4": 2_000_000, "bf16": 530_000}
WORK = 1 << 24  # scores of one head that the reference makes at once


def variants(arch: str) -> list[family.Params]:
    """Flash, Pro and tiny head counts and an odd one, both key formats."""
    return [family.choose(heads, cache, RATIO, arch) for heads in HEADS for cache in family.CACHES]


def cases() -> list[Case]:
    """Token counts times head counts and formats; then odd data; then times."""
    found = [
        Setup(tokens, heads, cache, 1300)
        for heads in HEADS
        for cache in family.CACHES
        for tokens in (*BATCHES, 257)
    ]
    for heads, cache in itertools.product(HEADS, family.CACHES):
        found += [Setup(t, heads, cache, 5000, "prefill") for t in (*CHUNKS, 300)]
        found += [Setup(t, heads, cache, 131072) for t in (1, 8)]
        found.append(Setup(129, heads, cache, 131072, "prefill"))
    found += [Setup(t, 32, "mxfp4", 700, "prefill") for t in (3, 261, 513)]
    found += [Setup(64, 64, "mxfp4", 131072), Setup(4096, 64, "mxfp4", 131072, "prefill")]
    for cache in family.CACHES:
        found += [Setup(t, 64, cache, 900, "odd") for t in (7, 257)]
        found += [Setup(t, 64, cache, 3000, "alone") for t in (5, 270)]
        found += [Setup(t, heads, cache, 900, "same") for t in (6, 70, 270) for heads in (8, 64)]
        found.append(Setup(300, 64, cache, 900, "same_prefill"))
        found += [Setup(7, 64, cache, 900, "far"), Setup(0, 64, cache, 900, "empty")]
        found += [Setup(t, 64, cache, 900, "padding") for t in (70, 300)]
    found.append(Setup(256, 8, "mxfp4", 12000))
    found += [Setup(128, heads, "mxfp4", 1024, "decode") for heads in HEADS]
    found += [Setup(t, h, "mxfp4", 1300, "edges") for t, h in ((40, 64), (40, 8), (300, 64))]
    found += [Setup(t, h, "mxfp4", 1300, "sums") for t, h in ((40, 64), (40, 8), (300, 64))]
    times = [
        Setup(b, 64, "mxfp4", context, "time")
        for context in (4096, 32768, 131072)
        for b in (1, 8, 64, 256)
    ]
    times += [Setup(4096, 64, "mxfp4", end, "time_prefill") for end in (4096, 32768, 131072)]
    times += [Setup(1, 64, "mxfp4", 4096, "time_wide"), Setup(64, 64, "mxfp4", 4096, "time_wide")]
    times += [Setup(64, 64, "mxfp4", 131072, "time_spread")]
    times += [Setup(4096, 64, "mxfp4", 32768, "time_prefill_spread")]
    times += [Setup(b, 64, "bf16", 32768, "time") for b in (1, 64)]
    return [_case(setup) for setup in (*found, *times)]


@dataclass(frozen=True)
class Setup:
    """Shapes and kind of data of one case; `context` is the longest sequence, in tokens."""

    tokens: int
    heads: int
    cache: str
    context: int
    what: str = "check"

    @property
    def name(self) -> str:
        tail = "" if self.what == "check" else f"_{self.what}"
        return f"t{self.tokens}_h{self.heads}_{self.cache}_c{self.context}{tail}"

    @property
    def timed(self) -> bool:
        return self.what.startswith("time")

    @property
    def spread(self) -> bool:
        """Scales of a row's four blocks are any of five; else those of rounded normal data."""
        return self.what in ("check", "odd", "decode") or self.what.endswith("spread")

    @property
    def columns(self) -> int:
        """Pages of a row of the block table."""
        if self.what == "time_wide":
            return 131072 // 128
        return -(-self.context // (PAGE * RATIO)) + (0 if self.timed else 3)


def _case(setup: Setup) -> Case:
    params = family.choose(setup.heads, setup.cache, RATIO, "sm_90a")
    out = (setup.tokens, setup.columns * PAGE)
    outputs, call = CALLS.get(setup.what.split("_")[0], (1, None))
    return Case(
        name=setup.name,
        kernel=family.kernel_name(params, "sm_90a"),
        inputs=functools.partial(_inputs, setup),
        outputs=lambda inputs: [(out, torch.float32)] * outputs,
        verify=None if setup.timed else functools.partial(_verify, setup),
        bench=_bench(setup) if setup.timed else None,
        call=call,
    )


def _bench(setup: Setup) -> Bench:
    if setup.what.startswith("time_prefill"):
        seen = torch.div(_positions(setup) + 1, RATIO, rounding_mode="floor")
        keys, scored = int(seen.max()), int(seen.sum())
    else:
        keys = scored = setup.tokens * (setup.context // RATIO)
    entry = family.PAGE_BYTES[setup.cache] // PAGE
    size = keys * entry + scored * 4 + setup.tokens * setup.heads * (2 * DIM + 4)
    flops = 2 * scored * setup.heads * (DIM + 1)
    baselines: dict[str, Callable[..., object]] = {}
    if setup.what == "time" and setup.cache == "mxfp4" and setup.tokens <= 8:
        baselines = {"eager": _torch_version}
    return Bench(bytes=size, flops=flops, baselines=baselines)


def _one_by_one(kernel: Callable[..., object], *given: torch.Tensor) -> None:
    """The whole batch into the first output, one token at a time into the second."""
    q, weights, cache, pos, slot, table, batch, alone = given
    kernel(q, weights, cache, pos, slot, table, batch)
    for t in range(q.shape[0]):
        own = slice(t, t + 1)
        kernel(q[own], weights[own], cache, pos[own], slot[own], table, alone[own])


def _other_keys(kernel: Callable[..., object], *given: torch.Tensor) -> None:
    """The batch with its cache, then with each of three that differ in entries of no concern."""
    q, weights, cache, pos, slot, table = given[:6]
    for keys, scores in zip((cache, *given[6:9]), given[9:], strict=True):
        kernel(q, weights, keys, pos, slot, table, scores)


CALLS = {"alone": (2, _one_by_one), "same": (4, _other_keys)}


# --- inputs ---------------------------------------------------------------------------------


def _positions(setup: Setup) -> torch.Tensor:
    """Of the last chunk of one sequence."""
    return torch.arange(setup.context - setup.tokens, setup.context, dtype=torch.int32)


def _places(setup: Setup, make: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, int]:
    """pos, slot, slots: a slot for each token, or runs of tokens of a few; -1 for padding."""
    tokens = setup.tokens
    if setup.what == "decode" or setup.what.startswith("time_prefill"):
        last = torch.full((tokens,), setup.context - 1)
        pos = _positions(setup) if setup.timed else last
        return pos.int().to(DEVICE), torch.zeros_like(pos).int().to(DEVICE), 1
    if "prefill" in setup.what and tokens > 1:
        # two sequences, one of which starts in the middle, with padding between and behind them
        half = tokens // 2
        pos = torch.cat(
            [torch.arange(half), torch.arange(setup.context - tokens + half, setup.context)]
        )
        slot = torch.cat([torch.full((half,), 2), torch.zeros(tokens - half)])
        slot[half - 1], slot[-1] = -1, -1
        return pos.int().to(DEVICE), slot.int().to(DEVICE), 3
    pos = torch.randint(0, setup.context, (tokens,), generator=make, device=DEVICE)
    if setup.timed:
        pos[:] = setup.context - 1
    else:
        special = torch.tensor([setup.context - 1, 0, 3, 130, 127, 2], device=DEVICE)
        pos[::3] = special[torch.arange(tokens, device=DEVICE)[::3] // 3 % 6].clamp_max(
            setup.context - 1
        )
    slot = torch.arange(tokens, device=DEVICE)
    if setup.what == "padding":
        slot[1::3] = -1
        pos[1::3] = 0
    return pos.int(), slot.int(), max(tokens, 1)


def _inputs(setup: Setup, seed: int) -> list[torch.Tensor]:
    make = torch.Generator(DEVICE).manual_seed(seed * 1000 + setup.tokens + setup.context)
    tokens, heads = setup.tokens, setup.heads
    q = _queries(setup, make)
    weights = torch.randn(tokens, heads, generator=make, device=DEVICE)
    pos, slot, slots = _places(setup, make)
    # slots share a pool; a page that no sequence needs is never named, but by a wild number
    needed = torch.zeros(slots, dtype=torch.long, device=DEVICE)
    real = slot >= 0
    seen = torch.div(pos + 1, RATIO, rounding_mode="floor").long()
    needed.scatter_reduce_(0, slot[real].long(), seen[real], "amax")
    pages = int((-(-needed // PAGE)).sum()) + 1
    pool = FAR_PAGES[setup.cache] if setup.what == "far" else pages + (0 if setup.timed else 5)
    order = torch.randperm(pool if pool < 1_000_000 else 1_000_000, generator=make, device=DEVICE)
    if setup.what == "far":
        order[::2] = pool - 1 - order[::2]
    table = torch.full((slots, setup.columns), 0x7F7F7F7F, dtype=torch.int32, device=DEVICE)
    use = torch.arange(setup.columns, device=DEVICE)[None] < -(-needed // PAGE)[:, None]
    table[use] = order[: int(use.sum())].int()
    cache = _keys(setup, pool, table[use].long(), make)
    if setup.what == "odd":
        spoil(q, weights, cache, table[use].long(), make)
    if setup.what == "edges":
        edges(q, weights, cache, table[use].long())
    if setup.what == "sums":
        sums(q)
    if setup.what == "decode":
        every_code(q, weights, cache, table[0, : setup.context // (PAGE * RATIO)].long())
    others: list[torch.Tensor] = []
    if setup.what.startswith("same"):
        q[1::3, 2, 40:70] *= 2.0**-9  # a head that does not fit 8 bits
        others = [cache.clone() for _ in range(3)]
        change_hidden(others[0], table, needed, 0)
        spoil_some(others[2], table[use].long())
    if not setup.timed:
        change_hidden(cache, table, needed, 255)
    return [q.bfloat16(), weights, cache, pos, slot, table, *others]


def _queries(setup: Setup, make: torch.Generator) -> torch.Tensor:
    """Values as a rounding to MXFP4 gives them: E2M1 times a power of two for each 32."""
    shape = (setup.tokens * setup.heads, DIM)
    if setup.spread:
        code = torch.randint(0, 16, shape, generator=make, device=DEVICE)
        exponent = torch.randint(-3, 2, (len(code), 4), generator=make, device=DEVICE)
    else:
        code, exponent = rounded(torch.randn(shape, generator=make, device=DEVICE))
    value = values()[code].view(-1, 4, 32) * torch.exp2(exponent.float())[..., None]
    return value.view(setup.tokens, setup.heads, DIM)


def _keys(setup: Setup, pool: int, used: torch.Tensor, make: torch.Generator) -> torch.Tensor:
    """A cache with random keys in the used pages and 0xFF elsewhere."""
    if setup.cache == "bf16":
        cache = torch.full((pool, PAGE, DIM), math.nan, dtype=torch.bfloat16, device=DEVICE)
        shape = (len(used), PAGE, DIM)
        cache[used] = torch.randn(shape, generator=make, device=DEVICE).bfloat16()
        return cache
    bytes_ = family.PAGE_BYTES["mxfp4"]
    cache = torch.full((pool, bytes_), 255, dtype=torch.uint8, device=DEVICE)
    for part in used.split(20_000):
        if setup.spread:
            shape = (len(part), bytes_)
            page = torch.randint(0, 256, shape, generator=make, device=DEVICE, dtype=torch.uint8)
            page[:, PAGE * 64 :] = page[:, PAGE * 64 :] % 5 + 123
        else:
            shape = (len(part) * PAGE, DIM)
            code, exponent = rounded(torch.randn(shape, generator=make, device=DEVICE))
            packed = (code[:, 1::2] * 16 + code[:, ::2]).to(torch.uint8).view(-1, PAGE * 64)
            scale = (exponent + 127).to(torch.uint8).view(-1, PAGE * 4)
            page = torch.cat([packed, scale], 1)
        cache[part] = page
    return cache


# --- reference ------------------------------------------------------------------------------


def _reference(
    setup: Setup, inputs: Sequence[torch.Tensor], tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and their bound, float64, of tokens of one slot."""
    q, weights, cache, pos, slot, table = inputs[:6]
    width = setup.columns * PAGE
    shape = (len(tokens), width)
    out = torch.full(shape, -math.inf, dtype=torch.float64, device=DEVICE)
    where = int(slot[tokens[0]])
    seen = torch.div(pos[tokens] + 1, RATIO, rounding_mode="floor")
    if where < 0 or int(seen.max()) == 0:
        return out, torch.zeros_like(out)
    pages = table[where, : -(-int(seen.max()) // PAGE)].long()
    keys = decoded(cache, pages).double()
    rows, w = q[tokens].double(), weights[tokens].double()[:, :, None]
    scale = (DIM * setup.heads) ** -0.5
    # in this order an infinity meets a zero as in fp32
    part = (rows @ keys.mT).relu()
    found = (w * part).sum(1) * scale
    rows, w, finite = (t.nan_to_num(0, 0, 0).abs() for t in (rows, w, keys))
    size = (w * (rows @ finite.mT)).sum(1) * scale
    bound = rounding_bound(found, size, DIM + setup.heads, out=F32_ROUNDING) + 2.0**-149
    count = keys.shape[0]
    hidden = torch.arange(count, device=DEVICE) >= seen[:, None]
    out[:, :count] = found.masked_fill(hidden | found.isnan(), -math.inf)
    full = torch.zeros_like(out)
    full[:, :count] = bound.nan_to_num(0, 0, 0)
    return out, full


def _verify(setup: Setup, run: Run) -> list[Gate]:
    y = run.outputs[0]
    gates: list[Gate] = []
    if setup.what == "alone":
        same = torch.equal(y.view(torch.int32), run.outputs[1].view(torch.int32))
        gates.append(Gate("alone", same, float(not same)))
    if setup.what.startswith("same"):
        kept = torch.arange(y.shape[1], device=DEVICE) % SPOILED != 0
        for name, other in zip(("zeros", "keys", "neighbours"), run.outputs[1:], strict=True):
            differs = y.view(torch.int32) != other.view(torch.int32)
            gates.append(count_gate(name, differs[:, kept] if name == "neighbours" else differs))
    if setup.tokens == 0:
        return gates
    out = torch.empty(y.shape, dtype=torch.float64, device=DEVICE)
    bound = torch.empty_like(out)
    slot = run.inputs[4]
    most = max(1, WORK // (setup.columns * PAGE * setup.heads))
    for where in slot.unique().tolist():
        for tokens in (slot == where).nonzero()[:, 0].split(most):
            out[tokens], bound[tokens] = _reference(setup, run.inputs, tokens)
    # beyond f32, and where the sum of finite terms is: an infinity of either sign
    out = out.float().double()
    return [*gates, compare("scores", y, out, bound)]


# --- the same computation as a torch user writes it -----------------------------------------


def _torch_version(
    q: torch.Tensor,
    weights: torch.Tensor,
    cache: torch.Tensor,
    pos: torch.Tensor,
    slot: torch.Tensor,
    table: torch.Tensor,
    scores: torch.Tensor | None = None,
) -> torch.Tensor:
    keys = cache[table[slot.long()].long()]
    packed, scale = keys[..., : PAGE * 64], keys[..., PAGE * 64 :]
    value = values()[torch.stack([packed & 15, packed >> 4], -1).int()].bfloat16()
    power = torch.exp2(scale.float() - 127).bfloat16()
    rows = value.view(q.shape[0], -1, 4, 32) * power.view(q.shape[0], -1, 4, 1)
    dots = torch.relu(q @ rows.flatten(2).mT)
    found = torch.einsum("ths,th->ts", dots.float(), weights) * (DIM * q.shape[1]) ** -0.5
    entry = torch.arange(found.shape[1], device=q.device)
    return torch.where(entry < (pos[:, None] + 1) // RATIO, found, -math.inf)
