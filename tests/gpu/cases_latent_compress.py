"""Cases of kind latent_compress: RMSNorm of the query latent; compressors of a layer."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from entries import entries, fp4_gates, fp8_gates, hadamard, restore, same_gate
from harness import DEVICE, Bench, Case, Gate, Run, Shape, compare, rounding_bound
from latent_compress_torch import torch_version

from dsv4c.codegen.kernels import latent_compress as family

KIND = family.KIND
WIDTH, ROPE, INDEX, EPS = family.WIDTH, family.ROPE, family.INDEX_WIDTH, 1e-6
RANKS = {"flash": 1024, "pro": 1536, "tiny": 128}
RATIOS = {"csa": 4, "hca": 128}
# Sequences as (first position, tokens); -1 tokens: that many padded rows.
EDGES = tuple((p, 1) for p in (0, 2, 3, 4, 6, 7, 8, 126, 127, 128, 129, 255, 256, 383, 511))
RAGGED = (
    (0, 5),
    (3, 1),
    (125, 4),
    (7, 1),
    (120, 141),
    (-1, 3),
    (1, 2),
    (2, 9),
    (255, 1),
    (384, 257),
)
SHORT = (
    (0, 3),
    (4, 4),
    (127, 1),
    (-1, 1),
    (127, 2),
    (0, 128),
    (128, 128),
    (1, 127),
    (6, 2),
    (5, 3),
)
BATCHES: dict[str, tuple[tuple[int, int], ...]] = {
    "t1": ((11, 1),),
    "t3": ((0, 1), (127, 1), (3, 1)),
    "t8": ((0, 1), (3, 1), (127, 1), (255, 1), (-1, 1), (130, 1), (383, 1), (66, 1)),
    "edges": EDGES,
    "ragged": RAGGED,
    "short": SHORT,
    "t64": tuple((17 * i + (i % 5 == 0) * (127 - 17 * i % 128), 1) for i in range(64)),
    "t129": (*((31 * i, 1) for i in range(120)), (-1, 9)),
    "t256": tuple((4 * i + 3, 1) for i in range(256)),
    "t1_chunk": ((127, 1),),
    "t127_chunk": ((0, 127),),
    "t128_chunk": ((0, 128),),
    "t129_chunk": ((100, 129),),
    "t700_chunk": ((37, 700),),
    "t4096_chunk": ((5, 4096),),
    "mixed": tuple((512 * i + 3 * i, 512) for i in range(8)),
    "deep": ((131071, 1), (131067, 2), (130943, 129), (131000, 7), (130943, 1)),
}
FAR_ENTRIES = {"csa": 230_000 * 32, "hca": 3_800_000}  # of 594 and 1,152 bytes: beyond 2^32
FAR_SLOTS = 4200  # of 524,288 bytes
# Pooled values may be much smaller than what was summed: more of them lie close to a boundary.
FREE = 1e-2


@dataclass(frozen=True)
class Setup:
    """One case: model, kind of layer, cache format, sequences, kind of data."""

    model: str
    layer: str
    cache: str
    batch: str
    what: str = "check"

    @property
    def name(self) -> str:
        tail = "" if self.what == "check" else f"_{self.what}"
        return f"{self.model}_{self.layer}_{self.cache}_{self.batch}{tail}"

    @property
    def ratio(self) -> int:
        return RATIOS[self.layer]

    @property
    def page(self) -> int:
        return 128 // self.ratio

    @property
    def total(self) -> int:
        return self.ratio * (1 + (self.layer == "csa"))

    @property
    def params(self) -> family.Params:
        return _params(self.model, self.layer, self.cache, "sm_90a")

    @property
    def runs(self) -> tuple[tuple[int, int], ...]:
        if self.what != "time":
            return BATCHES[self.batch]
        return _timed_batch(self.batch, self.ratio)


def _params(model: str, layer: str, cache: str, arch: str) -> family.Params:
    ratio = RATIOS[layer]
    index = INDEX if layer == "csa" else 0
    return family.choose(RANKS[model], ratio, index, cache, 128 // ratio, arch)


def _timed_batch(batch: str, ratio: int) -> tuple[tuple[int, int], ...]:
    """`mix64`: decode at even phases; `end64`: every token ends a window; `pre4096`: chunks of 512."""
    kind, count = batch[:3], int(batch[3:])
    if kind == "pre":
        return tuple((512 * i, min(count, 512)) for i in range(-(-count // 512)))
    phase = (lambda i: ratio - 1) if kind == "end" else (lambda i: i * 5 % ratio)
    return tuple((ratio * (8 + i) + phase(i), 1) for i in range(count))


def variants(arch: str) -> list[family.Params]:
    """Flash, Pro and tiny latents, both kinds of layers, both caches."""
    every = itertools.product(RANKS, RATIOS, family.CACHES)
    return [_params(*one, arch) for one in every]


def cases() -> list[Case]:
    """Batches of every kind on every kernel; far pages and slots, NaN, an empty batch; times."""
    every = itertools.product(RANKS, RATIOS, family.CACHES, BATCHES)
    found = [make_case(Setup(*one)) for one in every]
    for layer in RATIOS:
        for what in ("far", "nan"):
            found.append(make_case(Setup("flash", layer, "fp8", "ragged", what)))
        found.append(make_case(Setup("flash", layer, "fp8", "t1", "empty")))
        for cache, batch in itertools.product(family.CACHES, ("ragged", "mixed")):
            found.append(_pieces_case(Setup("flash", layer, cache, batch, "pieces")))
        for batch in ("t64", "t129"):
            found.append(_pieces_case(Setup("pro", layer, "fp8", batch, "alone")))
    for layer in RATIOS:
        sizes = ("mix1", "mix8", "mix64", "mix256", "end1", "end8", "end64", "pre512", "pre4096")
        found += [make_case(Setup("flash", layer, "fp8", size, "time")) for size in sizes]
        found += [make_case(Setup("pro", layer, "fp8", s, "time")) for s in ("mix64", "pre4096")]
    return found


def make_case(setup: Setup) -> Case:
    timed = setup.what == "time"
    states = (2, 7, 8, 13) if setup.layer == "csa" else (2, 7)
    return Case(
        name=setup.name,
        kernel=family.kernel_name(setup.params, ""),
        inputs=functools.partial(_inputs, setup),
        outputs=_outputs,
        verify=None if timed else functools.partial(_verify, setup),
        states=states,
        bench=Bench(_bytes(setup), baselines=_baselines(setup)) if timed else None,
    )


def _baselines(setup: Setup) -> dict[str, Callable[..., object]]:
    """Torch, eager and compiled, for decode."""
    if setup.model != "flash" or setup.batch not in ("mix1", "mix64"):
        return {}
    return {"eager": torch_version, "compile": torch.compile(torch_version, dynamic=False)}


def _bytes(setup: Setup) -> int:
    """Latent twice, this step's rows, state rows written and those read, entries."""
    tokens = sum(count for _, count in setup.runs)
    size = tokens * (4 * RANKS[setup.model] + ROPE * 4 + 16)
    for width in (WIDTH, INDEX) if setup.layer == "csa" else (WIDTH,):
        columns = width * setup.total // setup.ratio
        for first, count in setup.runs:
            size += 8 * columns * (count + min(count, setup.total))
            ends = [p for p in range(first, first + count) if (p + 1) % setup.ratio == 0]
            size += len(ends) * (584 if width == WIDTH else 68)
            # a row of a window is width columns of kv and gate, whether of its halves or whole
            size += sum(8 * width * max(min(setup.total - 1 - (p - first), p), 0) for p in ends)
    return size


def _outputs(inputs: Sequence[torch.Tensor]) -> list[tuple[Shape, torch.dtype]]:
    return [(tuple(inputs[0].shape), torch.bfloat16)]


# --- inputs -----------------------------------------------------------------------------------


def _inputs(setup: Setup, seed: int) -> list[torch.Tensor]:
    make = torch.Generator(DEVICE).manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=make, device=DEVICE)

    pos, slot, start, slots = _step(setup, seed)
    tokens, rank = len(pos), RANKS[setup.model]
    sizes = torch.tensor([1.0, 1.0, 40.0, 1e-3, 0.0, 1e15], device=DEVICE)
    pick = torch.randint(0, 6, (tokens, 1), generator=make, device=DEVICE)
    q = (normal(tokens, rank) * (sizes[pick] if setup.what != "time" else 1.0)).bfloat16()
    found = [q, (1 + 0.3 * normal(rank)).bfloat16()]
    ends = ((pos + 1) % setup.ratio == 0) & (slot >= 0)
    count = FAR_ENTRIES[setup.layer] if setup.what == "far" else 32 * (int(ends.sum()) + 2)
    at = torch.randperm(min(count, 1 << 22), generator=make, device=DEVICE)[: int(ends.sum())]
    if setup.what == "far" and len(at):
        at[-1] = count - 1
    for width in (WIDTH, INDEX) if setup.layer == "csa" else (WIDTH,):
        columns = width * setup.total // setup.ratio
        rows = _state(setup, pos, slot, start, slots, columns, make)
        kv, gate = normal(tokens, columns), 3 * normal(tokens, columns)
        if setup.what == "nan":
            kv[2, 5], gate[tokens - 7, 9], kv[30] = torch.nan, torch.inf, torch.nan
        ape, norm = normal(setup.ratio, columns), (1 + 0.3 * normal(width)).bfloat16()
        found += [rows, kv, gate, ape, norm, _cache(setup, width, count // setup.page, make)]
    turn = 6.2831853 * torch.rand(tokens, ROPE // 2, generator=make, device=DEVICE)
    entry = torch.full_like(pos, -1)
    entry[ends] = at.int()
    if setup.what == "nan":
        q[1, 3], q[2, 4] = torch.nan, torch.inf
    if setup.what == "empty":
        found = [t[:0] if t.shape[:1] == (tokens,) else t for t in found]
        pos, slot, start, entry, turn = (t[:0] for t in (pos, slot, start, entry, turn))
    return [*found, pos, slot, start, torch.cat([turn.cos(), turn.sin()], 1), entry]


def _step(setup: Setup, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """pos, slot, start [T] i32 and the number of slots, some of which stay unused."""
    columns: tuple[list[int], list[int], list[int]] = ([], [], [])
    runs = setup.runs
    slots = FAR_SLOTS if setup.what == "far" else len(runs) + 3
    order = torch.randperm(slots, generator=torch.Generator().manual_seed(seed)).tolist()
    if setup.what == "far":
        order[0] = slots - 1
    for number, (first, count) in enumerate(runs):
        begin = len(columns[0])
        columns[0].extend(range(first, first + count) if first >= 0 else [0] * count)
        columns[1].extend([order[number] if first >= 0 else -1] * count)
        columns[2].extend([begin if first >= 0 else 0] * count)
    pos, slot, start = (torch.tensor(c, dtype=torch.int32, device=DEVICE) for c in columns)
    return pos, slot, start, slots


def _state(
    setup: Setup,
    pos: torch.Tensor,
    slot: torch.Tensor,
    start: torch.Tensor,
    slots: int,
    columns: int,
    make: torch.Generator,
) -> torch.Tensor:
    """Rows of the positions before the step; NaN where a sequence has none, and in unused slots."""
    rows = torch.full((slots, setup.total, 2 * columns), torch.nan, device=DEVICE)
    for t in ((start == torch.arange(len(pos), device=DEVICE)) & (slot >= 0)).nonzero()[:, 0]:
        held = min(int(pos[t]), setup.total)
        at = torch.arange(int(pos[t]) - held, int(pos[t]), device=DEVICE) % setup.total
        rows[slot[t], at] = torch.randn(held, 2 * columns, generator=make, device=DEVICE)
    return rows


def _cache(setup: Setup, width: int, pages: int, make: torch.Generator) -> torch.Tensor:
    page = setup.page
    size = page * width * 2
    if setup.cache == "fp8":
        size = -(-584 * page // 576) * 576 if width == WIDTH else page * 68
    shape = (pages, size)
    data = torch.randint(0, 256, shape, generator=make, device=DEVICE, dtype=torch.uint8)
    return data if setup.cache == "fp8" else data.view(torch.bfloat16).view(pages, page, width)


# --- reference --------------------------------------------------------------------------------


def _verify(setup: Setup, run: Run) -> list[Gate]:
    q, q_norm = run.inputs[:2]
    pos, slot, start, angles, entry = run.inputs[-5:]
    x = q.double()
    inverse = torch.rsqrt((x * x).mean(-1, keepdim=True) + EPS)
    latent = x * inverse * q_norm.double()
    bound = rounding_bound(latent, latent.abs(), q.shape[1])
    gates = [compare("latent", run.outputs[0], latent, bound)]
    for first in (2, 8) if setup.layer == "csa" else (2,):
        operands = run.inputs[first : first + 6]
        after = run.states[first], run.states[first + 5]
        gates += _compressor_gates(setup, operands, after, pos, slot, start, angles, entry)
    return gates


def _compressor_gates(
    setup: Setup,
    operands: Sequence[torch.Tensor],
    after: tuple[torch.Tensor, torch.Tensor],
    pos: torch.Tensor,
    slot: torch.Tensor,
    start: torch.Tensor,
    angles: torch.Tensor,
    entry: torch.Tensor,
) -> list[Gate]:
    rows, kv, gate, ape, norm, cache = operands
    index = norm.shape[0] == INDEX
    name = "index_" if index else ""
    fresh = torch.cat((kv, gate + ape[pos.long() % setup.ratio]), 1)
    gates = [same_gate(f"{name}rows", after[0], _stored(setup, rows, fresh, pos, slot))]
    done = (entry >= 0).nonzero()[:, 0]
    at = entry[done].long()
    if not len(done):
        return [*gates, same_gate(f"{name}rest_of_cache", cache, after[1])]
    pooled, size = _pooled(setup, rows, fresh, pos, slot, start, done, norm.shape[0])
    inverse = torch.rsqrt((pooled * pooled).mean(-1, keepdim=True) + EPS) * norm.double()
    reference, size = _turned(pooled * inverse, size * inverse.abs(), angles[done])
    terms = setup.total + norm.shape[0]
    if setup.cache == "bf16":
        got = after[1].view(-1, norm.shape[0])[at]
        gates.append(
            compare(f"{name}entry", got, reference, rounding_bound(reference, size, terms))
        )
        restored = cache.clone()
        restored.view(-1, norm.shape[0])[at] = got
    elif index:
        reference, size = hadamard(reference), size.sum(1, keepdim=True) * INDEX**-0.5
        bound = rounding_bound(reference, size.expand_as(reference), terms, out=0.0)
        data, scales = entries(after[1], at, setup.page, INDEX // 2, INDEX // 32)
        gates += fp4_gates(data, scales, reference, bound, FREE)
        restored = restore(cache, at, setup.page, data, scales)
    else:
        data, scales = entries(after[1], at, setup.page)
        bound = rounding_bound(reference, size, terms, out=0.0)
        gates += fp8_gates(data, scales, reference, bound, FREE)
        got = data[:, WIDTH - ROPE :].contiguous().view(torch.bfloat16)
        bound = rounding_bound(reference, size, terms)[:, -ROPE:]
        gates.append(compare("rope", got, reference[:, -ROPE:], bound))
        restored = restore(cache, at, setup.page, data, scales)
    return [*gates, same_gate(f"{name}rest_of_cache", restored, after[1])]


def _stored(
    setup: Setup, rows: torch.Tensor, fresh: torch.Tensor, pos: torch.Tensor, slot: torch.Tensor
) -> torch.Tensor:
    """The state afterwards: every token's row in order, later ones over earlier ones."""
    expected = rows.clone()
    kept = slot >= 0
    kept[: -setup.total] &= slot[: -setup.total] != slot[setup.total :]
    expected[slot[kept].long(), pos[kept].long() % setup.total] = fresh[kept]
    return expected


def _pooled(
    setup: Setup,
    rows: torch.Tensor,
    fresh: torch.Tensor,
    pos: torch.Tensor,
    slot: torch.Tensor,
    start: torch.Tensor,
    done: torch.Tensor,
    width: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax-weighted sums of each window's rows, and of their absolute values, float64."""
    values: list[torch.Tensor] = []
    sizes: list[torch.Tensor] = []
    half = fresh.shape[1] // 2
    for some in done.split(64):
        p = pos[some, None].long() + torch.arange(1 - setup.total, 1, device=DEVICE)
        first = start[some, None].long()
        here = p >= pos[first]
        new = fresh[torch.where(here, first + p - pos[first], 0)]
        old = rows[slot[some, None].long(), p % setup.total]
        window = torch.where(here[..., None], new, old).double()
        kv, z = window[..., :half], window[..., half:]
        if half > width:
            kv, z = (
                torch.cat((t[:, : setup.ratio, :width], t[:, setup.ratio :, width:]), 1)
                for t in (kv, z)
            )
        z = z.masked_fill((p < 0)[..., None], -torch.inf)
        kv = kv.masked_fill((p < 0)[..., None], 0)
        weights = z.softmax(1)
        values.append((weights * kv).sum(1))
        sizes.append((weights * kv.abs()).sum(1))
    return torch.cat(values), torch.cat(sizes)


def _turned(
    y: torch.Tensor, size: torch.Tensor, angles: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """RoPE of the last dims, and the same on absolute values."""
    cos, sin = (half.double() for half in angles.view(-1, 2, ROPE // 2).unbind(1))
    even, odd = y[:, -ROPE::2], y[:, -ROPE + 1 :: 2]
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
    even, odd, cos, sin = size[:, -ROPE::2], size[:, -ROPE + 1 :: 2], cos.abs(), sin.abs()
    large = torch.stack([even * cos + odd * sin, even * sin + odd * cos], -1).flatten(-2)
    return torch.cat((y[:, :-ROPE], turned), 1), torch.cat((size[:, :-ROPE], large), 1)


# --- the same tokens cut into other steps -----------------------------------------------------


def _pieces_case(setup: Setup) -> Case:
    """Every sequence in one step, against the same in pieces: equal bits everywhere.

    `pieces`: each sequence is cut at random; `alone`: each token has a step of its own.
    """
    case = make_case(dataclasses.replace(setup, what="check"))

    def outputs(inputs: Sequence[torch.Tensor]) -> list[tuple[Shape, torch.dtype]]:
        again = [inputs[i] for i in case.states]
        return [*_outputs(inputs), *_outputs(inputs), *((tuple(t.shape), t.dtype) for t in again)]

    def verify(run: Run) -> list[Gate]:
        whole, pieces, *again = run.outputs
        gates = [same_gate("latent", whole, pieces)]
        for i, other in zip(case.states, again, strict=True):
            gates.append(same_gate(f"state{i}", run.states[i], other))
        return gates

    call = functools.partial(_call_pieces, case.states, setup.what)
    return dataclasses.replace(
        case, name=setup.name, outputs=outputs, verify=verify, call=call, bench=None
    )


def _call_pieces(
    states: Sequence[int], what: str, kernel: Callable[..., object], *given: torch.Tensor
) -> None:
    count = len(given) - 2 - len(states)
    inputs, (whole, pieces, *again) = given[:count], given[count:]
    tokens = inputs[0].shape[0]
    other = list(inputs)
    for i, copy in zip(states, again, strict=True):
        other[i] = copy.copy_(inputs[i])
    kernel(*inputs, whole)
    start, slot = inputs[-3].tolist(), inputs[-4].tolist()
    cut = torch.Generator().manual_seed(7)
    weights = {1, 5, 6, 11, 12} if count == 19 else {1, 5, 6}
    first = 0
    while first < tokens:
        most = 1 if what == "alone" else int(torch.randint(1, 9, (), generator=cut)) ** 2
        end = first + 1
        while end < min(first + most, tokens) and (start[end], slot[end]) == (
            start[first],
            slot[first],
        ):
            end += 1
        part = [t if i in states or i in weights else t[first:end] for i, t in enumerate(other)]
        part[-3] = torch.zeros_like(part[-3])
        kernel(*part, pieces[first:end])
        first = end
