"""Cases of kind qnorm_rope_kv_insert: query norm + RoPE, KV norm + RoPE + encode + insert."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from entries import (
    data_view,
    entries,
    fp8_gates,
    hadamard,
    restore,
    same_gate,
    scale_view,
    value_gates,
)
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

from dsv4c.codegen.kernels import qnorm_rope_kv_insert as family

KIND = family.KIND
DIM, ROPE, NOPE, BLOCK, PAGE, EPS = 512, 64, 448, 64, 128, 1e-6
INDEX = family.INDEX_DIM
ENTRY, PAGE_BYTES = 576, 74880
# Heads, and heads of the indexer: tiny, Flash, Pro.
HEADS, INDEX_HEADS = (8, 64, 128), {8: 32, 64: 64, 128: 64}
# Pages of 74,880 (fp8) and 131,072 bytes (bf16): the last one lies beyond 2^32 bytes.
FAR_PAGES = {"fp8": 58_000, "bf16": 33_000}


def variants(arch: str) -> list[family.Params]:
    """Flash, Pro and tiny head counts, both cache formats, without and with an indexer."""
    return [
        family.choose(h, cache, PAGE, arch, index)
        for h in HEADS
        for cache in family.CACHES
        for index in (0, INDEX_HEADS[h])
    ]


def cases() -> list[Case]:
    """Every head count, length and cache; far pages, odd values, an empty batch; then times."""
    found = [
        make_case(Setup(tokens, heads, cache, index=index))
        for heads in HEADS
        for cache in family.CACHES
        for tokens in (*LENGTHS, 7, 257)
        for index in (0, INDEX_HEADS[heads])
    ]
    for cache in family.CACHES:
        found.append(make_case(Setup(7, 64, cache, "far", FAR_PAGES[cache])))
        found.append(make_case(Setup(64, 64, cache, "odd")))
        found.append(make_case(Setup(64, 64, cache, "odd", index=64)))
        found.append(make_case(Setup(0, 64, cache, "empty")))
        found.append(make_case(Setup(0, 64, cache, "empty", index=64)))
        found += [_chain_case(Setup(tokens, 64, cache, "chain")) for tokens in (7, 257)]
    found += [make_case(Setup(t, 64, "fp8", "time")) for t in (1, 8, 17, 64, 256, 1024, 4096, 8192)]
    found += [make_case(Setup(t, 128, "fp8", "time")) for t in (1, 8, 64, 256, 1024, 8192)]
    found += [make_case(Setup(t, 64, "bf16", "time")) for t in (1, 64, 4096)]
    sizes = (1, 8, 64, 256, 1024, 4096)
    found += [make_case(Setup(t, 64, "fp8", "time", index=64)) for t in sizes]
    found += [make_case(Setup(t, 128, "fp8", "time", index=64)) for t in (1, 64, 4096)]
    return found


@dataclass(frozen=True)
class Setup:
    """Shapes and kind of data of one case."""

    tokens: int
    heads: int
    cache: str
    what: str = "check"
    pages: int | None = None
    index: int = 0

    @property
    def name(self) -> str:
        tail = f"_i{self.index}" if self.index else ""
        tail += "" if self.what == "check" else f"_{self.what}"
        return f"t{self.tokens}_h{self.heads}_{self.cache}{tail}"

    @property
    def page_count(self) -> int:
        """Twice the pages that hold all tokens, so that entries have gaps."""
        return self.pages or 2 * (self.tokens // PAGE + 1)


def make_case(setup: Setup) -> Case:
    timed = setup.what == "time"
    per_token = 2 * setup.heads * DIM * 2 + DIM * 2 + ROPE * 4 + 4
    per_token += 2 * setup.index * INDEX * 2
    per_token += ENTRY + 8 if setup.cache == "fp8" else DIM * 2
    baselines = {"eager": torch_version, "compile": _compiled} if setup.heads == 64 else {}
    baselines = {} if setup.index else baselines
    baselines = baselines if setup.cache == "fp8" else {}
    return Case(
        name=setup.name,
        kernel=family.kernel_name(
            family.choose(setup.heads, setup.cache, PAGE, "sm_90a", setup.index), ""
        ),
        inputs=functools.partial(_inputs, setup),
        outputs=_outputs,
        verify=None if timed else functools.partial(_verify, setup),
        states=(4,),
        bench=Bench(bytes=setup.tokens * per_token + DIM * 2, baselines=baselines)
        if timed
        else None,
    )


def _chain_case(setup: Setup) -> Case:
    """Kernels that read what the one before wrote, overlapped in a graph, and one at a time."""

    def outputs(inputs: Sequence[torch.Tensor]) -> list[tuple[Shape, torch.dtype]]:
        return 2 * _outputs(inputs)

    def verify(run: Run) -> list[Gate]:
        overlapped, alone = (out.view(torch.int16) for out in run.outputs)
        return [count_gate("overlap", overlapped != alone)]

    return dataclasses.replace(
        make_case(setup), outputs=outputs, verify=verify, call=_call_chain, bench=None
    )


def _call_chain(kernel: Callable[..., object], q: torch.Tensor, *rest: torch.Tensor) -> None:
    *others, overlapped, alone = rest
    turns = [torch.empty_like(q) for _ in range(3)]

    def chain(after_each: Callable[[], object]) -> torch.Tensor:
        # RoPE turns the rows on at every step, so a step that reads too early shows. The first
        # step follows a memory copy, which is no kernel.
        source = turns[2].copy_(q)
        for step in range(31):
            kernel(source, *others, turns[step % 3])
            source = turns[step % 3]
            after_each()
        return source

    alone.copy_(chain(torch.cuda.synchronize))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        overlapped.copy_(chain(lambda: None))
    for _ in range(5):
        graph.replay()


def _inputs(setup: Setup, seed: int) -> list[torch.Tensor]:
    make = torch.Generator(DEVICE).manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=make, device=DEVICE)

    tokens, heads = setup.tokens, setup.heads
    q, kv = normal(tokens, heads, DIM), normal(tokens, DIM)
    if setup.what != "time":
        # Norms from nothing to huge: eps rules below 1e-3; squares of 1e15 still sum in fp32.
        sizes = torch.tensor([1.0, 1.0, 1.0, 40.0, 1e-3, 1e-30, 0.0, 1e15], device=DEVICE)
        pick = torch.randint(0, 8, (tokens, heads, 1), generator=make, device=DEVICE)
        q, kv = q * sizes[pick], kv * sizes[pick[:, 0]]
    q, kv = q.bfloat16(), kv.bfloat16()
    if setup.what == "odd":
        q[3, 1, 5], q[4, 2, 460], q[5, 0, 461] = torch.nan, torch.inf, -torch.inf
        kv[6, 70], kv[7, 500], kv[8, 3] = torch.nan, torch.nan, torch.inf
    norm = (1 + 0.3 * normal(DIM)).bfloat16()
    turn = 6.2831853 * torch.rand(tokens, ROPE // 2, generator=make, device=DEVICE)
    angles = torch.cat([turn.cos(), turn.sin()], 1)
    entries = torch.randperm(setup.page_count * PAGE, generator=make, device=DEVICE)
    slot = entries[:tokens].int()
    if setup.what == "far":
        slot[-1] = setup.page_count * PAGE - 1
    if setup.what != "time" and tokens > 1:
        slot[1::5] = -1
    found = [q, kv, norm, angles, _cache(setup, make), slot]
    if setup.index:
        index = normal(tokens, setup.index, INDEX)
        if setup.what != "time":
            # Sums of 128 huge values overflow in the reference's formats too: stay below.
            sizes = torch.tensor([1.0, 1.0, 40.0, 1e-3, 1e-30, 0.0, 1e15], device=DEVICE)
            pick = torch.randint(0, 7, (tokens, setup.index, 1), generator=make, device=DEVICE)
            index = index * sizes[pick]
        found.append(index.bfloat16())
        if setup.what == "odd":
            found[6][3, 1, 5], found[6][4, 2, 70], found[6][5, 0, 9] = (
                torch.nan,
                torch.inf,
                torch.nan,
            )
    return found


def _cache(setup: Setup, make: torch.Generator) -> torch.Tensor:
    pages = setup.page_count
    shape = (pages, PAGE_BYTES) if setup.cache == "fp8" else (pages, PAGE * DIM * 2)
    data = torch.randint(0, 256, shape, generator=make, device=DEVICE, dtype=torch.uint8)
    return data if setup.cache == "fp8" else data.view(torch.bfloat16).view(pages, PAGE, DIM)


def _outputs(inputs: Sequence[torch.Tensor]) -> list[tuple[Shape, torch.dtype]]:
    return [(tuple(inputs[i].shape), torch.bfloat16) for i in (0, 6) if i < len(inputs)]


def _reference(
    x: torch.Tensor, angles: torch.Tensor, weight: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """rope(x * rsqrt(mean(x^2) + eps) * w) in float64, and the same on absolute values."""
    x = x.double()
    y = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + EPS)
    y = y if weight is None else y * weight.double()
    cos, sin = (half.double() for half in angles.view(-1, 2, ROPE // 2).unbind(1))
    while cos.dim() < y.dim():
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    even, odd = y[..., NOPE::2], y[..., NOPE + 1 :: 2]
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
    sizes = [even.abs() * cos.abs() + odd.abs() * sin.abs()]
    sizes += [even.abs() * sin.abs() + odd.abs() * cos.abs()]
    size = torch.stack(sizes, -1).flatten(-2)
    nope = y[..., :NOPE]
    return torch.cat([nope, turned], -1), torch.cat([nope.abs(), size], -1)


def _verify(setup: Setup, run: Run) -> list[Gate]:
    q, kv, norm, angles, before, slot = run.inputs[:6]
    after = run.states[4]
    if setup.tokens == 0:
        return [count_gate("untouched", before.view(torch.uint8) != after.view(torch.uint8))]
    reference, size = _reference(q, angles, None)
    gates = [compare("q", run.outputs[0], reference, rounding_bound(reference, size, DIM))]
    del reference, size
    if setup.index:
        gates += _index_gates(setup, run)
    written = slot >= 0
    at = slot[written].long()
    reference, size = _reference(kv[written], angles[written], norm)
    if setup.cache == "bf16":
        rows = after.view(-1, DIM)[at]
        gates.append(compare("kv", rows, reference, rounding_bound(reference, size, DIM)))
        restored = before.clone()
        restored.view(-1, DIM)[at] = rows
    else:
        data, scales = entries(after, at, PAGE)
        gates += fp8_gates(data, scales, reference, rounding_bound(reference, size, DIM, out=0.0))
        rope = data[:, NOPE:].contiguous().view(torch.bfloat16)
        bound = rounding_bound(reference, size, DIM)
        gates.append(compare("kv_rope", rope, reference[:, NOPE:], bound[:, NOPE:]))
        restored = restore(before, at, PAGE, data, scales)
    return [*gates, same_gate("rest_of_cache", restored, after)]


def _index_reference(x: torch.Tensor, angles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """rope(x) in float64, and the same on absolute values."""
    x = x.double()
    cos, sin = (half.double()[:, None] for half in angles.view(-1, 2, ROPE // 2).unbind(1))
    even, odd = x[..., INDEX - ROPE :: 2], x[..., INDEX - ROPE + 1 :: 2]
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
    even, odd, cos, sin = even.abs(), odd.abs(), cos.abs(), sin.abs()
    size = torch.stack([even * cos + odd * sin, even * sin + odd * cos], -1).flatten(-2)
    nope = x[..., : INDEX - ROPE]
    return torch.cat([nope, turned], -1), torch.cat([nope.abs(), size], -1)


def _index_gates(setup: Setup, run: Run) -> list[Gate]:
    """The indexer's query: values of MXFP4, or RoPE alone beside a bf16 cache."""
    index, angles, got = run.inputs[6], run.inputs[3], run.outputs[1]
    reference, size = _index_reference(index, angles)
    if setup.cache == "bf16":
        return [compare("index_q", got, reference, rounding_bound(reference, size, 2))]
    reference = hadamard(reference.flatten(0, 1))
    size = size.flatten(0, 1).sum(1, keepdim=True) * INDEX**-0.5
    bound = rounding_bound(reference, size.expand_as(reference), INDEX, out=0.0)
    return value_gates("index_q_", got.flatten(0, 1), reference, bound)


def torch_version(
    q: torch.Tensor,
    kv: torch.Tensor,
    norm: torch.Tensor,
    angles: torch.Tensor,
    cache: torch.Tensor,
    slot: torch.Tensor,
) -> torch.Tensor:
    """The same computation as a torch user writes it (valid slots only)."""
    cos, sin = angles[:, : ROPE // 2], angles[:, ROPE // 2 :]

    def turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        even, odd = x[..., NOPE::2], x[..., NOPE + 1 :: 2]
        turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
        return torch.cat([x[..., :NOPE], turned], -1).bfloat16()

    x = q.float()
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)
    out = turn(x, cos[:, None], sin[:, None])
    y = kv.float()
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + EPS) * norm.float()
    y = turn(y, cos, sin)
    blocks = y[:, :NOPE].float().unflatten(1, (NOPE // BLOCK, BLOCK))
    amax = blocks.abs().amax(-1, keepdim=True).clamp_min(1e-4)
    exponent = torch.ceil(torch.log2(amax / 448))
    codes = (blocks * torch.exp2(-exponent)).to(torch.float8_e4m3fn).view(torch.uint8).flatten(1)
    page, row = slot.long() // PAGE, slot.long() % PAGE
    data_view(cache, PAGE)[page, row] = torch.cat([codes, y[:, NOPE:].view(torch.uint8)], 1)
    scales = (exponent + 127).to(torch.uint8).squeeze(-1)
    scale_view(cache, PAGE)[page, row] = torch.nn.functional.pad(scales, (0, 1))
    return out


@functools.cache
def _compile(tokens: int):
    return torch.compile(torch_version, dynamic=False)


def _compiled(*given: torch.Tensor) -> torch.Tensor:
    return _compile(given[0].shape[0])(*given)
