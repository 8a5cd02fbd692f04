"""FlashMLA's sparse decode for DeepSeek-V4's cache (MODEL1) beside `sparse_attention`.

Both gather the same entries of a window and of a compressed cache, converted to FlashMLA's pages
of 64. FlashMLA gets its schedule, which a step makes once, beforehand. Its probabilities are
rounded to bf16 relative to a running maximum, ours relative to the final one: both are held against
float64 with one bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from dsv4c.bench.peers.compare import LIBRARIES, missing
from dsv4c.bench.peers.library import Kernels
from dsv4c.bench.peers.side_by_side import timed
from dsv4c.bench.results import PeerRow
from dsv4c.bench.timing import set_count
from dsv4c.codegen.kernels import sparse_attention as family

PAGE, STRIDE = 64, 37_440
DIM, NOPE, ENTRY, BLOCK, WINDOW = 512, 448, 576, 64, 128
WINDOWS, ENTRIES = 2048, 1 << 19
BATCHES = (1, 8, 64, 128, 256)
CHECKED = 16
BF16, F32 = 2.0**-8, 2.0**-24
BOUND = "2^-8 |r| + min(2^-8 sum p|v|, 2^-6 sqrt(sum (pv)^2)) + fp32, against float64"
# q, near and far entry numbers
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Shape:
    """Flash and Pro CSA, Flash HCA at 32k tokens."""

    heads: int
    chosen: int
    page: int


SHAPES = (Shape(64, 512, 32), Shape(128, 1024, 32), Shape(64, 256, 1))


def rows(folder: Path, kernels: Kernels) -> Iterator[PeerRow]:
    """Every shape and batch."""
    torch.ops.load_library(str(folder / LIBRARIES["flashmla"]))
    make = torch.Generator("cuda").manual_seed(0)
    near, far = (_entries(count, make) for count in (WINDOWS * WINDOW, ENTRIES))
    for shape in SHAPES:
        params = family.choose(shape.heads, "fp8", shape.page, "sm_90a")
        kernel = kernels.get(name := family.kernel_name(params, "sm_90a"))
        if kernel is None:
            yield missing("FlashMLA", name)
            continue
        sink = torch.randn(shape.heads, generator=make, device="cuda")
        ours = _paged(near, WINDOW), _paged(far, shape.page)
        theirs = _viewed(near), _viewed(far)
        for batch in BATCHES:
            touched = batch * (WINDOW + shape.chosen) * 584 + batch * shape.heads * DIM * 4
            sets = [_inputs(shape, batch, i, make) for i in range(set_count(touched))]
            mine = _ours(kernel, ours, sink)
            peer = _theirs(theirs, sink, sets[0])
            own, peers = _check(sets[0], near, far, sink, mine(sets[0]), peer(sets[0]))
            case = f"{shape.heads} heads, {WINDOW} + {shape.chosen} rows, B = {batch}"
            row = PeerRow("FlashMLA", case, None, None, touched, own, peers, BOUND)
            yield timed(row, sets, mine, peer)


# --- inputs ---------------------------------------------------------------------------------


def _entries(count: int, make: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Data bytes [count, 576] and scale bytes [count, 8]: every finite code, values around 1."""

    def draw(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=make, device="cuda", dtype=torch.uint8)

    codes = draw(0, 256, count, NOPE)
    codes[(codes & 0x7F) == 0x7F] = 0x31
    rope = torch.randn(count, DIM - NOPE, generator=make, device="cuda").bfloat16()
    scales = draw(118, 122, count, 8)
    scales[:, 7] = 0
    return torch.cat([codes, rope.view(torch.uint8)], 1), scales


def paged(parts: tuple[torch.Tensor, torch.Tensor], page: int, width: int) -> torch.Tensor:
    """Pages of `page` entries: their data, then their scales, in `width` bytes."""
    data, scales = (part.unflatten(0, (-1, page)).flatten(1) for part in parts)
    rest = data.new_zeros(len(data), width - data.shape[1] - scales.shape[1])
    return torch.cat([data, scales, rest], 1)


def _paged(parts: tuple[torch.Tensor, torch.Tensor], page: int) -> torch.Tensor:
    return paged(parts, page, family.page_bytes(page, "fp8"))


def _viewed(parts: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The same entries as FlashMLA takes them."""
    raw = paged(parts, PAGE, STRIDE)
    shape, strides = (len(raw), PAGE, 1, 584), (STRIDE, 584, 584, 1)
    return torch.as_strided(raw, shape, strides).view(torch.float8_e4m3fn)


def _inputs(shape: Shape, batch: int, number: int, make: torch.Generator) -> Inputs:
    q = torch.randn(batch, shape.heads, DIM, generator=make, device="cuda").bfloat16()
    window = (torch.arange(batch, device="cuda") + number * batch) % WINDOWS
    near = (window[:, None] * WINDOW + torch.arange(WINDOW, device="cuda")).int()
    far = torch.randint(0, ENTRIES, (batch, shape.chosen), generator=make, device="cuda")
    return q, near.contiguous(), far.sort(1)[0].int().contiguous()


# --- both sides -----------------------------------------------------------------------------


def _ours(
    kernel: Callable[..., object], caches: tuple[torch.Tensor, torch.Tensor], sink: torch.Tensor
) -> Callable[[Inputs], torch.Tensor]:
    def call(given: Inputs) -> torch.Tensor:
        q, near, far = given
        out = torch.empty_like(q)
        kernel(q, caches[0], near, caches[1], far, sink, out)
        return out

    return call


def _theirs(
    caches: tuple[torch.Tensor, torch.Tensor], sink: torch.Tensor, first: Inputs
) -> Callable[[Inputs], torch.Tensor]:
    op = torch.ops._flashmla_C.sparse_decode_fwd
    batch = len(first[0])
    lengths = [
        torch.full((batch,), ids.shape[1], device="cuda", dtype=torch.int32) for ids in first[1:]
    ]
    plan: list[torch.Tensor | None] = [None, None]

    def call(given: Inputs) -> torch.Tensor:
        q, near, far = (part[:, None] for part in given)
        head = (q, caches[0], near, lengths[0], sink)
        tail = (caches[1], far, lengths[1], DIM, family.SCALE, None)
        out, _, *made = op(*head, *plan, *tail)
        if plan[0] is None:
            plan[:] = made
        return out[:, 0]

    call(first)
    return call


# --- equal results --------------------------------------------------------------------------


def _rows(parts: tuple[torch.Tensor, torch.Tensor], at: torch.Tensor) -> torch.Tensor:
    """Decoded entries in float64."""
    data, scales = parts[0][at.long()], parts[1][at.long()][..., :7]
    nope = data[..., :NOPE].view(torch.float8_e4m3fn).double().unflatten(-1, (7, BLOCK))
    nope = (nope * torch.exp2(scales.double() - 127).unsqueeze(-1)).flatten(-2)
    rope = data[..., NOPE:].contiguous().view(torch.bfloat16).double()
    return torch.cat([nope, rope], -1)


def _check(
    given: Inputs,
    near: tuple[torch.Tensor, torch.Tensor],
    far: tuple[torch.Tensor, torch.Tensor],
    sink: torch.Tensor,
    *results: torch.Tensor,
) -> list[float]:
    """Worst error over its bound of each result, on some tokens."""
    some = torch.linspace(0, len(given[0]) - 1, min(CHECKED, len(given[0])), device="cuda").long()
    q = given[0][some].double()
    v = torch.cat([_rows(near, given[1][some]), _rows(far, given[2][some])], 1)
    s, top = q @ v.mT * family.SCALE, sink.double()[:, None]
    top = torch.maximum(s.amax(-1, keepdim=True), top)
    e = torch.exp(s - top)
    p = e / (e.sum(-1, keepdim=True) + torch.exp(sink.double()[:, None] - top))
    r, whole = p @ v, p @ v.abs()
    rounding = BF16 * torch.minimum(whole, 4 * ((p * p) @ (v * v)).sqrt())
    scores = math.sqrt(DIM) * family.SCALE * (q.abs() @ v.abs().mT)
    scores = 4 * F32 * (scores + s.abs() + s.abs().amax(-1, keepdim=True) + 4)
    bound = BF16 * r.abs() + rounding + 4 * F32 * math.sqrt(v.shape[1]) * whole
    bound += (p * scores) @ v.abs() + r.abs() * (p * scores).sum(-1, keepdim=True)
    return [float(((y[some].double() - r).abs() / bound).max()) for y in results]
