"""vLLM's fused q-norm, RoPE, quantise and insert beside `qnorm_rope_kv_insert`.

vLLM's kernel takes kv after its norm and looks angles up by position; ours norms kv itself. The
kv rows here are integers whose squares have the same mean, a power of four: with a weight of ones
their norm is exact, so both sides encode the same numbers and every byte must agree, but for the
last bit of RoPE's products.
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
from dsv4c.codegen.kernels import qnorm_rope_kv_insert as family

DIM, NOPE, ENTRY, EPS = 512, 448, 576, 1e-6
OUR_PAGE, PEER_PAGE = 128, 64
HEADS = (64, 128)
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
POSITIONS = 131_072
# Root mean square of kv's integers, and how many of them a search changes to reach it.
ROOT, FREE = 64, 4
DIFFERENT = 1e9
BOUND = "cache: codes and scales equal, RoPE's bf16 within 2^-7; q within 2^-7 of its pair"


@dataclass(frozen=True)
class Inputs:
    """One step: queries, rows, where they go, and both caches."""

    q: torch.Tensor
    kv: torch.Tensor
    normed: torch.Tensor
    slot: torch.Tensor
    long_slot: torch.Tensor
    position: torch.Tensor
    angles: torch.Tensor
    ours: torch.Tensor
    theirs: torch.Tensor


def rows(folder: Path, kernels: Kernels) -> Iterator[PeerRow]:
    """Every number of heads and tokens."""
    torch.ops.load_library(str(folder / LIBRARIES["insert"]))
    make = torch.Generator("cuda").manual_seed(0)
    turn = 2 * math.pi * torch.rand(POSITIONS, 32, generator=make, device="cuda")
    table = torch.cat([turn.cos(), turn.sin()], 1)
    norm = torch.ones(DIM, dtype=torch.bfloat16, device="cuda")
    for heads in HEADS:
        params = family.choose(heads, "fp8", OUR_PAGE, "sm_90a")
        kernel = kernels.get(name := family.kernel_name(params, "sm_90a"))
        if kernel is None:
            yield missing("vLLM insert", name)
            continue
        mine, peer = _ours(kernel, norm), _theirs(heads, table)
        for tokens in TOKENS:
            moved = tokens * (2 * heads * DIM * 2 + DIM * 2 + 584 + 256 + 4)
            count = set_count(moved)
            sets = [_inputs(tokens, heads, table, make) for _ in range(count)]
            ratio = _check(sets[0], mine(sets[0]), peer(sets[0]))
            case = f"{heads} heads, T = {tokens}"
            row = PeerRow("vLLM insert", case, None, None, moved, ratio, ratio, BOUND)
            yield timed(row, sets, mine, peer)


# --- inputs ---------------------------------------------------------------------------------


def exact_row() -> list[int]:
    """512 integers below 256 whose squares sum to 512 x 64^2."""
    total = DIM * ROOT * ROOT
    # Like a half-normal distribution, a little smaller than wanted; four more make up the rest.
    ranks = [(i + 0.5) / (DIM - FREE) for i in range(DIM - FREE)]
    sizes = [min(250, round(62.5 * 1.4142 * _erfinv(rank))) for rank in ranks]
    rest = total - sum(n * n for n in sizes)
    return sizes + _four_squares(rest)


def _erfinv(x: float) -> float:
    return float(torch.erfinv(torch.tensor(x, dtype=torch.float64)))


def _four_squares(n: int) -> list[int]:
    """Four integers whose squares sum to n."""
    for a in range(math.isqrt(n // 4), -1, -1):
        for b in range(a, math.isqrt(max(n - a * a, 0)) + 1):
            left = n - a * a - b * b
            for c in range(math.isqrt(max(left, 0) // 2), -1, -1):
                d = math.isqrt(left - c * c) if left >= c * c else -1
                if d >= 0 and d * d == left - c * c and max(b, d) < 256:
                    return [a, b, c, d]
    raise AssertionError("every number is a sum of four squares")


def _inputs(tokens: int, heads: int, table: torch.Tensor, make: torch.Generator) -> Inputs:
    def draw(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=make, device="cuda")

    q = torch.randn(tokens, heads, DIM, generator=make, device="cuda").bfloat16()
    sizes = torch.tensor(exact_row(), device="cuda")
    order = torch.rand(tokens, DIM, generator=make, device="cuda").argsort(1)
    kv = (sizes[order] * (2 * draw(0, 2, tokens, DIM) - 1)).bfloat16()
    entries = -(-tokens // OUR_PAGE) * 2 * OUR_PAGE
    slot = torch.randperm(entries, generator=make, device="cuda")[:tokens]
    position = draw(0, POSITIONS, tokens)
    caches = [
        torch.zeros(entries // page, -(-584 * page // ENTRY) * ENTRY, dtype=torch.uint8).cuda()
        for page in (OUR_PAGE, PEER_PAGE)
    ]
    angles = table[position].contiguous()
    return Inputs(q, kv, kv / ROOT, slot.int(), slot, position, angles, *caches)


# --- both sides -----------------------------------------------------------------------------


def _ours(kernel: Callable[..., object], norm: torch.Tensor) -> Callable[[Inputs], torch.Tensor]:
    def call(given: Inputs) -> torch.Tensor:
        out = torch.empty_like(given.q)
        kernel(given.q, given.kv, norm, given.angles, given.ours, given.slot, out)
        return out

    return call


def _theirs(heads: int, table: torch.Tensor) -> Callable[[Inputs], torch.Tensor]:
    op = torch.ops._C.fused_deepseek_v4_qnorm_rope_kv_rope_quant_insert

    def call(given: Inputs) -> torch.Tensor:
        rows = (given.q, given.normed, given.theirs, given.long_slot, given.position)
        return op(*rows, table, heads, EPS, PEER_PAGE)

    return call


# --- equal results --------------------------------------------------------------------------


def _entries(cache: torch.Tensor, page: int, slot: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Codes, RoPE part and scales of the entries."""
    data = cache[:, : ENTRY * page].unflatten(1, (page, ENTRY))[slot // page, slot % page]
    scales = cache[:, ENTRY * page : (ENTRY + 8) * page].unflatten(1, (page, 8))
    rope = data[:, NOPE:].contiguous().view(torch.bfloat16)
    return data[:, :NOPE], rope, scales[slot // page, slot % page, :7]


def _check(given: Inputs, ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Worst difference over its bound; `DIFFERENT` where a byte of codes or scales differs."""
    slot = given.long_slot
    mine, peer = _entries(given.ours, OUR_PAGE, slot), _entries(given.theirs, PEER_PAGE, slot)
    if not (torch.equal(mine[0], peer[0]) and torch.equal(mine[2], peer[2])):
        return DIFFERENT
    return max(_apart(mine[1], peer[1]), _apart(ours, theirs))


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference over one bf16 rounding of the larger number of a pair that RoPE turns."""
    worst = 0.0
    for a, b in zip(one.split(512), other.split(512), strict=True):
        pair = torch.maximum(a.abs(), b.abs()).float().unflatten(-1, (-1, 2)).amax(-1)
        bound = (2.0**-7 * pair).repeat_interleave(2, -1).clamp_min(2.0**-126)
        worst = max(worst, float(((a.float() - b.float()).abs() / bound).max()))
    return worst
