"""Cases of kind sparse_attention: gathered window and compressed rows, one softmax with a sink."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from harness import (
    DEVICE,
    LENGTHS,
    Bench,
    Case,
    Gate,
    Run,
    compare,
    count_gate,
)
from sparse_attention_bounds import Limits, judged, limits

from dsv4c.codegen.kernels import sparse_attention as family

KIND = family.KIND
DIM, NOPE, BLOCK, WINDOW, SCALE = 512, 448, 64, 128, family.SCALE
ENTRY = 576
HEADS = (8, 64, 128)
# CSA's rows of tiny, Flash and Pro; HCA's at 128k tokens.
CHOSEN, HCA = {8: 64, 64: 512, 128: 1024}, 1024
# Pages of 19,008 (fp8) and 32,768 bytes (bf16): the last ones lie beyond 2^32 bytes.
FAR_PAGES = {"fp8": 228_000, "bf16": 132_000}
# A row's bits in batches of both sizes are the same: heads, entries, then the two sizes. Within a
# bucket for any number of rows; beyond it as long as each block of the larger batch's clusters has
# one tile of 128 at most.
BATCHES = (
    *((64, 512, 1, most) for most in (2, 8, 15)),
    *((64, 512, few, most) for few, most in ((16, 28), (29, 66), (67, 257))),
    *((128, 1024, few, most) for few, most in ((1, 3), (4, 7), (8, 14), (15, 33), (34, 64))),
    *((64, 384, few, 28) for few in (1, 15)),
    *((64, 128, few, 66) for few in (1, 28)),
    *((128, 896, few, 7) for few in (1, 3)),
    *((128, 384, few, 14) for few in (1, 3, 7)),
    *((128, 128, few, 33) for few in (1, 7, 14)),
    *((heads, 0, few, 129) for heads in (64, 128) for few in (1, 8, 64)),
)
# Tokens whose float64 reference is computed at once.
CHUNK = 32


def variants(arch: str) -> list[family.Params]:
    """Flash, Pro and tiny head counts; no, CSA and HCA compressed source; both cache formats."""
    return [
        family.choose(heads, cache, page, arch)
        for heads in HEADS
        for cache in family.CACHES
        for page in (0, 32, 1)
    ]


def cases() -> list[Case]:
    """Every head count, length and row count; then odd data; then times."""
    found = [
        Setup(tokens, heads, k, cache, page=page)
        for heads in HEADS
        for cache in family.CACHES
        for page, k in ((32, 0), (32, CHOSEN[heads]), (1, HCA))
        for tokens in (*LENGTHS, 7, 20, 257)
    ]
    found += [Setup(257, heads, 300, page=1) for heads in HEADS]
    found += [Setup(t, h, k) for h in HEADS for k in (64, 512, 1024) for t in (2, 40, 258)]
    found.append(Setup(9, 64, 64))
    for cache in family.CACHES:
        found += [Setup(7, 64, 512, cache, "far", pages=FAR_PAGES[cache])]
        found += [Setup(64, 64, 512, cache, "odd"), Setup(0, 64, 512, cache, "empty")]
    found += [Setup(1, 64, 8192), Setup(7, 128, 8191, page=1)]
    found += [Setup(t, 64, 512, what="same") for t in (7, 40, 257)]
    found += [Setup(t, heads, 512, what="alike") for heads in (64, 128) for t in (1, 64, 70)]
    found += [Setup(247, 8, 64, what="decode"), Setup(247, 64, 0, what="decode")]
    batches = [
        _batch_case(few, Setup(most, h, k, what=f"batch{few}")) for h, k, few, most in BATCHES
    ]
    flash = [Setup(t, 64, 512, what="time") for t in (1, 8, 16, 32, 64, 128, 256, 4096)]
    pro = [Setup(t, 128, 1024, what="time") for t in (1, 8, 32, 64, 128, 256, 4096)]
    rest = [Setup(t, 64, 0, what="time") for t in (1, 64, 256, 4096)]
    rest += [Setup(t, 64, 256, page=1, what="time") for t in (1, 64, 256)]
    rest += [Setup(t, 64, 512, "bf16", what="time") for t in (1, 64, 256)]
    return [*(make_case(setup) for setup in (*found, *flash, *pro, *rest)), *batches]


@dataclass(frozen=True)
class Setup:
    """Shapes and kind of data of one case."""

    tokens: int
    heads: int
    k: int
    cache: str = "fp8"
    what: str = "check"
    page: int = 32
    pages: int = 0

    @property
    def name(self) -> str:
        tail = "" if self.what == "check" else f"_{self.what}"
        source = f"_c{self.page}" if self.k else ""
        return f"t{self.tokens}_h{self.heads}_k{self.k}{source}_{self.cache}{tail}"

    def page_count(self, entries: int, page: int) -> int:
        """Pages of a pool: at least twice the live entries, unless every entry is."""
        return -(-entries // page) * (1 if self.what == "time" else 2)


def make_case(setup: Setup) -> Case:
    timed = setup.what == "time"
    rows = WINDOW + setup.k
    row_bytes = 584 if setup.cache == "fp8" else 2 * DIM
    distinct = rows * setup.tokens if setup.tokens < 4096 else setup.tokens * 2
    size = distinct * row_bytes + setup.tokens * (4 * setup.heads * DIM + 4 * rows)
    flops = 4 * setup.tokens * setup.heads * rows * DIM
    baselines: dict[str, Callable[..., object]] = {}
    if setup.cache == "fp8" and setup.page == 32 and 1 <= setup.tokens <= 256:
        baselines = {"eager": functools.partial(_torch_version, setup.page)}
        if setup.k and setup.tokens in (1, 64, 256):
            baselines["compile"] = functools.partial(_compiled, setup.page)
    params = family.choose(setup.heads, setup.cache, setup.page if setup.k else 0, "sm_90a")
    return Case(
        name=setup.name,
        kernel=family.kernel_name(params, "sm_90a"),
        inputs=functools.partial(_inputs, setup),
        outputs=lambda inputs: [(tuple(inputs[0].shape), torch.bfloat16)],
        verify=None if timed else functools.partial(_verify, setup),
        bench=Bench(bytes=size, flops=flops, baselines=baselines) if timed else None,
    )


def _batch_case(fewer: int, setup: Setup) -> Case:
    """Rows alone and in a batch of others: the same bits."""

    def outputs(inputs: Sequence[torch.Tensor]) -> list[tuple[tuple[int, ...], torch.dtype]]:
        return 2 * [((fewer, setup.heads, DIM), torch.bfloat16)]

    def call(kernel: Callable[..., object], *given: torch.Tensor) -> None:
        *inputs, few, many = given
        pick = torch.arange(setup.tokens, device=DEVICE).flip(0)[:fewer]
        # q and the indices have a row for each token
        rows = [0, *range(2, len(inputs) - 1, 2)]
        kernel(*(t[pick].contiguous() if i in rows else t for i, t in enumerate(inputs)), few)
        whole = torch.empty_like(inputs[0])
        kernel(*inputs, whole)
        many.copy_(whole[pick])

    def verify(run: Run) -> list[Gate]:
        few, many = (out.view(torch.int16) for out in run.outputs)
        return [count_gate("batch", few != many)]

    return dataclasses.replace(make_case(setup), outputs=outputs, call=call, verify=verify)


# --- inputs ---------------------------------------------------------------------------------


def _inputs(setup: Setup, seed: int) -> list[torch.Tensor]:
    make = torch.Generator(DEVICE).manual_seed(seed * 1000 + setup.tokens + setup.k)
    tokens, heads = setup.tokens, setup.heads
    q = torch.randn(tokens, heads, DIM, generator=make, device=DEVICE)
    sink = torch.randn(heads, generator=make, device=DEVICE)
    if setup.what.startswith(("check", "far", "batch")):
        # Flat, usual and one-hot softmaxes; sinks that vanish or swallow everything.
        sizes = torch.tensor([1.0, 1.0, 1.0, 1e-3, 8.0, 100.0, 0.0], device=DEVICE)
        q *= sizes[torch.randint(0, 7, (tokens, heads, 1), generator=make, device=DEVICE)]
        sink[:8] = torch.tensor([1e4, -1e4, 40.0, -40.0, -math.inf, 0.0, 3.0, 80.0])
    if setup.what == "decode":
        q.zero_()
        sink.fill_(-1e4)
    if setup.what == "same":
        q[:] = q[:1].clone()
    if setup.what == "alike":
        sink.fill_(-1e4)
    parts = [_source(setup, WINDOW, WINDOW, make, 0)]
    if setup.k:
        parts.append(_source(setup, setup.page, setup.k, make, setup.pages))
    if setup.what == "odd":
        _spoil(setup, parts[-1])
    if setup.what == "alike":
        # One row, then copies of another: all of their p are rounded the same way.
        parts[0][1][:, 1:] = -1
        parts[1][1][:] = parts[1][1][:, :1].clone()
    if setup.what == "decode":
        cache, index = parts[0]
        at = index[:, 0].long()
        bytes_ = torch.arange(tokens, device=DEVICE, dtype=torch.uint8)
        _scales(cache, WINDOW)[at // WINDOW, at % WINDOW, :7] = bytes_[:, None]
    return [q.bfloat16(), *(tensor for part in parts for tensor in part), sink]


def _source(
    setup: Setup, page: int, columns: int, make: torch.Generator, pages: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """A cache, all NaN where no index points, and indices [T, columns]."""
    tokens, timed = setup.tokens, setup.what == "time"
    live = tokens * columns if timed and tokens < 4096 else min(max(tokens, 1) * columns, 30_000)
    pages = pages or setup.page_count(max(live, columns), page)
    cache = _pool(setup.cache, pages, page)
    where = torch.randperm(min(pages * page, 8_000_000), generator=make, device=DEVICE)[:live]
    if timed:
        where = where.view(-1, columns) if tokens < 4096 else where
    if pages * page > 8_000_000 or setup.pages:
        where[::2] = pages * page - 1 - where[::2]
    _fill(setup, cache, page, where.flatten(), make)
    if timed and tokens < 4096:
        return cache, where.int().contiguous()
    pick = torch.rand(tokens, live, generator=make, device=DEVICE) if live < 2000 else None
    if pick is not None:
        chosen = pick.argsort(1)[:, :columns]
    else:
        chosen = torch.randint(0, live, (tokens, columns), generator=make, device=DEVICE)
    index = where[chosen].int()
    if setup.what == "same":
        index[:] = index[:1].clone()
    elif not timed:
        if setup.what == "decode":
            index[:, 0] = where[:tokens]
        count = _counts(setup, columns, make)
        index[torch.arange(columns, device=DEVICE) >= count[:, None]] = -1
    return cache, index.contiguous()


def _counts(setup: Setup, columns: int, make: torch.Generator) -> torch.Tensor:
    """Valid indices of each token: none, one, odd numbers, all; a token of its own has all."""
    tokens = setup.tokens
    count = torch.randint(1, columns + 1, (tokens,), generator=make, device=DEVICE)
    if setup.what == "alike":
        return torch.full_like(count, columns)
    if setup.what == "decode":
        return torch.full_like(count, int(columns == WINDOW))
    low = 1 if columns == WINDOW else 0
    special = torch.tensor([columns, low, columns, columns - 1, 33, 1], device=DEVICE)
    count[::2] = special[torch.arange(tokens, device=DEVICE)[::2] // 2 % 6].clamp_max(columns)
    if tokens > 6:
        count[3::11] = 0  # tokens without any row
    return count


def _pool(cache: str, pages: int, page: int) -> torch.Tensor:
    """A cache of 0xFF bytes: NaN as E4M3, E8M0 and bf16."""
    if cache == "fp8":
        width = family.page_bytes(page, cache)
        return torch.full((pages, width), 255, dtype=torch.uint8, device=DEVICE)
    return torch.full((pages, page, DIM), math.nan, dtype=torch.bfloat16, device=DEVICE)


def _fill(
    setup: Setup, cache: torch.Tensor, page: int, where: torch.Tensor, make: torch.Generator
) -> None:
    """Random rows at entries `where`: every E4M3 code, scales that give values around 1."""
    count = where.numel()
    if setup.cache == "bf16":
        for part in where.split(1 << 20):
            rows = torch.randn(part.numel(), DIM, generator=make, device=DEVICE)
            cache.view(-1, DIM)[part] = rows.bfloat16()
        return
    codes = torch.randint(0, 256, (count, NOPE), generator=make, device=DEVICE, dtype=torch.uint8)
    codes[(codes & 0x7F) == 0x7F] = 0x31
    scales = torch.randint(118, 122, (count, 8), generator=make, device=DEVICE, dtype=torch.uint8)
    if setup.what == "decode":
        # Every code; `_inputs` gives token t the scale byte t, up to the last without infinities.
        codes[:, :256] = torch.arange(256, device=DEVICE, dtype=torch.uint8)
        codes[(codes & 0x7F) == 0x7F] = 0
    scales[:, 7] = 0
    rope = torch.randn(count, DIM - NOPE, generator=make, device=DEVICE).bfloat16()
    at, row = where // page, where % page
    _data(cache, page)[at, row] = torch.cat([codes, rope.view(torch.uint8)], 1)
    _scales(cache, page)[at, row] = scales


def _spoil(setup: Setup, part: tuple[torch.Tensor, torch.Tensor]) -> None:
    """NaN and infinities in single elements of some tokens' first rows."""
    cache, index = part
    rows = [i for i in index[:, 0].tolist() if i >= 0][:6]
    page = setup.page
    if setup.cache == "bf16":
        flat = cache.view(-1, DIM)
        flat[rows[0], 3], flat[rows[1], 500], flat[rows[2], 7] = math.nan, math.nan, math.inf
        return
    data, scales = _data(cache, page), _scales(cache, page)
    data[rows[0] // page, rows[0] % page, 3] = 0x7F
    data[rows[1] // page, rows[1] % page, 447] = 0xFF
    scales[rows[2] // page, rows[2] % page, 6] = 0xFF
    rope = data[..., NOPE:]
    for i, value in zip(rows[3:], (math.nan, math.inf, -math.inf), strict=False):
        bits = torch.tensor([value], dtype=torch.bfloat16, device=DEVICE).view(torch.uint8)
        rope[i // page, i % page, 10:12] = bits


def _data(cache: torch.Tensor, page: int) -> torch.Tensor:
    return cache[:, : ENTRY * page].unflatten(1, (page, ENTRY))


def _scales(cache: torch.Tensor, page: int) -> torch.Tensor:
    return cache[:, ENTRY * page : (ENTRY + 8) * page].unflatten(1, (page, 8))


# --- reference ------------------------------------------------------------------------------


def _gather(cache: torch.Tensor, index: torch.Tensor, page: int, dtype: torch.dtype):
    """Decoded rows [..., 512]; zeros where the index is -1."""
    at = index.clamp_min(0).long()
    if cache.dtype == torch.bfloat16:
        rows = cache.view(-1, DIM)[at].to(dtype)
    else:
        data, scales = _data(cache, page)[at // page, at % page], _scales(cache, page)
        scales = scales[at // page, at % page, :7]
        step = torch.exp2(scales.to(dtype) - 127)
        step = torch.where(scales == 255, torch.nan, step)
        nope = data[..., :NOPE].view(torch.float8_e4m3fn).to(torch.float32).to(dtype)
        nope = (nope.unflatten(-1, (7, BLOCK)) * step.unsqueeze(-1)).flatten(-2)
        rope = data[..., NOPE:].contiguous().view(torch.bfloat16).to(dtype)
        rows = torch.cat([nope, rope], -1)
    return torch.where((index >= 0).unsqueeze(-1), rows, 0.0)


@dataclass(frozen=True)
class Reference:
    """Float64 output of some tokens, and what rounding may do to it."""

    out: torch.Tensor
    limits: Limits


def scored(
    setup: Setup, inputs: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """In float64: rows, scores, their exponentials beside the largest's or the sink's; the sink's."""
    q, sink, sources = inputs[0].double(), inputs[-1].double(), inputs[1:-1]
    rows, valid = [], []
    for cache, index, page in zip(sources[::2], sources[1::2], (WINDOW, setup.page), strict=False):
        rows.append(_gather(cache, index, page, torch.float64))
        valid.append(index >= 0)
    v, ok = torch.cat(rows, 1), torch.cat(valid, 1)[:, None]
    s = torch.where(ok, q @ v.mT * SCALE, -math.inf)
    top = torch.maximum(s.amax(-1, keepdim=True), sink[:, None]).clamp_min(-1e300)
    return v, s, torch.exp(s - top), torch.exp(sink[:, None] - top)


def _reference(setup: Setup, inputs: Sequence[torch.Tensor]) -> Reference:
    v, s, e, sink = scored(setup, inputs)
    p = e / (e.sum(-1, keepdim=True) + sink).clamp_min(1e-300)
    out = p @ v
    return Reference(out, limits(inputs[0].double(), v, s, p, out))


def _verify(setup: Setup, run: Run) -> list[Gate]:
    (y,) = run.outputs
    if setup.tokens == 0:
        return []
    if setup.what == "same":
        return [Gate("identical_tokens", bool((y == y[:1]).all()), float((y != y[:1]).sum()))]
    parts = [_reference(setup, part) for part in _chunks(run.inputs)]
    out = torch.cat([part.out for part in parts])
    limit = Limits(
        *(
            torch.cat([getattr(part.limits, field.name) for part in parts])
            for field in dataclasses.fields(Limits)
        )
    )
    if setup.what == "decode":
        wrong = (y.double() - out).abs() > torch.where(out.abs() < 2.0**-126, 2.0**-126, 0.0)
        return [Gate("decoded_bits", not bool(wrong.any()), float(wrong.sum()))]
    return [judged(compare("o", y, out, limit.element), y, out, limit)]


def _chunks(inputs: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """The inputs of a few tokens at a time; caches and sinks are shared."""
    tokens = inputs[0].shape[0]
    for first in range(0, tokens, CHUNK):
        part = slice(first, first + CHUNK)
        middle = [t[part] if i % 2 else t for i, t in enumerate(inputs[1:-1])]
        yield [inputs[0][part], *middle, inputs[-1]]


# --- the same computation as a torch user writes it -----------------------------------------


def _torch_version(page: int, *inputs: torch.Tensor) -> torch.Tensor:
    q, sink, sources = inputs[0], inputs[-1], inputs[1:-1]
    pages = (WINDOW, page)
    triples = zip(sources[::2], sources[1::2], pages, strict=False)
    v = torch.cat([_gather(c, i, n, torch.float32).bfloat16() for c, i, n in triples], 1)
    ok = torch.cat([i >= 0 for i in sources[1::2]], 1)[:, None]
    s = (q @ v.mT).float() * SCALE
    s = torch.where(ok, s, -math.inf)
    s = torch.cat([s, sink[None, :, None].expand(q.shape[0], -1, 1)], -1)
    p = torch.softmax(s, -1)[..., :-1]
    return p.bfloat16() @ v


@functools.cache
def _compile(page: int, tokens: int):
    return torch.compile(functools.partial(_torch_version, page), dynamic=False)


def _compiled(page: int, *inputs: torch.Tensor) -> torch.Tensor:
    return _compile(page, inputs[0].shape[0])(*inputs)
