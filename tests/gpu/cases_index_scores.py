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
    rounding_bound,
)

from dsv4c.codegen.kernels import index_scores as family

KIND = family.KIND
DIM, PAGE, RATIO = family.DIM, family.PAGE, 4
HEADS = (8, 32, 64)
CODES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
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
        found += [Setup(7, 64, cache, 900, "far"), Setup(0, 64, cache, 900, "empty")]
        found += [Setup(t, 64, cache, 900, "padding") for t in (70, 300)]
    found += [Setup(128, heads, "mxfp4", 1024, "decode") for heads in HEADS]
    found += [Setup(t, h, "mxfp4", 1300, "edges") for t, h in ((40, 64), (40, 8), (300, 64))]
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
    alone = setup.what == "alone"
    return Case(
        name=setup.name,
        kernel=family.kernel_name(params, "sm_90a"),
        inputs=functools.partial(_inputs, setup),
        outputs=lambda inputs: [(out, torch.float32)] * (2 if alone else 1),
        verify=None if setup.timed else functools.partial(_verify, setup),
        bench=_bench(setup) if setup.timed else None,
        call=_one_by_one if alone else None,
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
    if setup.what == "prefill" and tokens > 1:
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
        _spoil(setup, q, weights, cache, table[use].long(), make)
    if setup.what == "edges":
        _edges(q, weights, cache, table[use].long())
    if setup.what == "decode":
        _every_code(q, weights, cache, table[0, : setup.context // (PAGE * RATIO)].long())
    if not setup.timed:
        _poison_hidden(cache, table, needed)
    return [q.bfloat16(), weights, cache, pos, slot, table]


def _queries(setup: Setup, make: torch.Generator) -> torch.Tensor:
    """Values as a rounding to MXFP4 gives them: E2M1 times a power of two for each 32."""
    shape = (setup.tokens * setup.heads, DIM)
    if setup.spread:
        code = torch.randint(0, 16, shape, generator=make, device=DEVICE)
        exponent = torch.randint(-3, 2, (len(code), 4), generator=make, device=DEVICE)
    else:
        code, exponent = _rounded(torch.randn(shape, generator=make, device=DEVICE))
    value = _values()[code].view(-1, 4, 32) * torch.exp2(exponent.float())[..., None]
    return value.view(setup.tokens, setup.heads, DIM)


def _rounded(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes [n, 128] and exponents [n, 4]: the largest of 32 is at most 6."""
    blocks = x.view(-1, 4, 32)
    exponent = torch.ceil(torch.log2(blocks.abs().amax(-1) / 6)).int()
    middles = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], device=DEVICE)
    scaled = blocks * torch.exp2(-exponent.float())[..., None]
    code = torch.bucketize(scaled.abs(), middles) + 8 * (scaled < 0)
    return code.view(-1, DIM), exponent


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
            code, exponent = _rounded(torch.randn(shape, generator=make, device=DEVICE))
            packed = (code[:, 1::2] * 16 + code[:, ::2]).to(torch.uint8).view(-1, PAGE * 64)
            scale = (exponent + 127).to(torch.uint8).view(-1, PAGE * 4)
            page = torch.cat([packed, scale], 1)
        cache[part] = page
    return cache


def _poison_hidden(cache: torch.Tensor, table: torch.Tensor, needed: torch.Tensor) -> None:
    """Entries behind the last one that a slot needs, in its last page, become NaN."""
    for slot, count in enumerate(needed.tolist()):
        if count % PAGE:
            page, first = int(table[slot, count // PAGE]), count % PAGE
            if cache.dtype == torch.bfloat16:
                cache[page, first:] = math.nan
            else:
                cache[page, PAGE * 64 + first * 4 :] = 255


def _spoil(
    setup: Setup,
    q: torch.Tensor,
    weights: torch.Tensor,
    cache: torch.Tensor,
    used: torch.Tensor,
    make: torch.Generator,
) -> None:
    """NaN, infinities, zeros and extreme scales where they must stay in their row."""
    q[1::5, 3, 7] = math.nan
    q[2::5, 0, 0] = math.inf
    weights[3::5, 2] = math.nan
    weights[4::5] = 0.0
    weights[::7, 1] = -math.inf
    page = used[::3]
    if setup.cache == "bf16":
        cache[page, 5, 9] = math.nan
        cache[page, 6, 100] = math.inf
        cache[page, 7] = 0
    else:
        scales = torch.randint(
            0, 240, (len(page), 128), generator=make, device=DEVICE, dtype=torch.uint8
        )
        scales[:, 77] = 255
        cache[page, PAGE * 64 :] = scales


def _edges(q: torch.Tensor, weights: torch.Tensor, cache: torch.Tensor, used: torch.Tensor) -> None:
    """Rows at the ends of what 8 bits hold, and just beyond; sums of most and least bits."""
    power = torch.exp2(-torch.arange(4, device=DEVICE).float()).repeat_interleave(32)
    q[0::4, 0] = 6 * power  # blocks 1, 2, 4 and 8 times smaller
    q[0::4, 1], q[0::4, 2] = 6, -6
    q[0::4, 3, 32:] *= 2.0**-9  # one block beyond them
    q[1::4, 4], q[1::4, 5] = 0, 0
    q[1::4, 4, 0], q[1::4, 4, 1:] = 6, 0.75  # one large product and many small ones
    q[1::4, 5, 127] = 2.0**-30
    q[2::4, 6] *= 2.0**33
    q[2::4, 7] *= 2.0**-40
    weights[0::4, 4], weights[1::4, 4] = 2.0**-100, 3 * 2.0**-140
    weights[2::4, 4], weights[3::4, 4] = -(2.0**60), 2.0**20
    code = torch.randint(0, 256, (32, 64), device=DEVICE, dtype=torch.uint8)
    code[0], code[1], code[2], code[3] = 0x77, 0xFF, 0x88, 0x00
    code[4], code[4, 0] = 0x11, 0x17
    scale = torch.full((32, 4), 127, device=DEVICE, dtype=torch.uint8)
    step = torch.tensor([0, 1, 2, 3], device=DEVICE, dtype=torch.uint8)
    scale[:4], scale[4], scale[5] = 127 - step, 127 - step, 127 + step
    scale[6], scale[7, 2], scale[8], scale[9], scale[10], scale[11] = 124, 123, 96, 95, 159, 160
    cache[used[::2], : PAGE * 64] = code.view(-1)
    # every other page has only rows that 8 bits hold
    cache[used[::4], PAGE * 64 :] = scale.clamp(124, 127).view(-1)
    cache[used[2::4], PAGE * 64 :] = scale.view(-1)


def _every_code(
    q: torch.Tensor, weights: torch.Tensor, cache: torch.Tensor, pages: torch.Tensor
) -> None:
    """Token t sees dim t of each key as its score; entry s has the scale byte s, and all codes."""
    q.zero_()
    weights.zero_()
    token = torch.arange(q.shape[0], device=DEVICE)
    q[token, 0, token], q[token, 1, token] = 1, -1
    weights[:, 0], weights[:, 1] = 1, -1
    entry = torch.arange(len(pages) * PAGE, device=DEVICE)
    code = (token[None] + entry[:, None]) % 16
    packed = (code[:, 1::2] * 16 + code[:, ::2]).to(torch.uint8)
    scale = entry[:, None].expand(-1, 4).to(torch.uint8)
    cache[pages, : PAGE * 64] = packed.view(len(pages), -1)
    cache[pages, PAGE * 64 :] = scale.reshape(len(pages), -1)


# --- reference ------------------------------------------------------------------------------


@functools.cache
def _values() -> torch.Tensor:
    """Of the 16 codes."""
    return torch.tensor([*CODES, *(-x for x in CODES)], device=DEVICE)


def _decoded(cache: torch.Tensor, pages: torch.Tensor) -> torch.Tensor:
    """Keys f32 [pages * 32, 128]."""
    if cache.dtype == torch.bfloat16:
        return cache[pages].float().view(-1, DIM)
    data = cache[pages]
    packed, scale = data[:, : PAGE * 64], data[:, PAGE * 64 :]
    code = torch.stack([packed & 15, packed >> 4], -1).view(-1, DIM).long()
    value = _values()[code]
    power = torch.where(scale == 255, math.nan, torch.exp2(scale.double() - 127)).float()
    return value * power.view(-1, 4, 1).expand(-1, -1, 32).reshape(-1, DIM)


def _reference(
    setup: Setup, inputs: Sequence[torch.Tensor], tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and their bound, float64, of tokens of one slot."""
    q, weights, cache, pos, slot, table = inputs
    width = setup.columns * PAGE
    shape = (len(tokens), width)
    out = torch.full(shape, -math.inf, dtype=torch.float64, device=DEVICE)
    where = int(slot[tokens[0]])
    seen = torch.div(pos[tokens] + 1, RATIO, rounding_mode="floor")
    if where < 0 or int(seen.max()) == 0:
        return out, torch.zeros_like(out)
    pages = table[where, : -(-int(seen.max()) // PAGE)].long()
    keys = _decoded(cache, pages).double()
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
    value = _values()[torch.stack([packed & 15, packed >> 4], -1).int()].bfloat16()
    power = torch.exp2(scale.float() - 127).bfloat16()
    rows = value.view(q.shape[0], -1, 4, 32) * power.view(q.shape[0], -1, 4, 1)
    dots = torch.relu(q @ rows.flatten(2).mT)
    found = torch.einsum("ths,th->ts", dots.float(), weights) * (DIM * q.shape[1]) ** -0.5
    entry = torch.arange(found.shape[1], device=q.device)
    return torch.where(entry < (pos[:, None] + 1) // RATIO, found, -math.inf)
