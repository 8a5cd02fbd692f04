"""Gates on cache entries: codes and scales are the reference's unless rounding leaves a choice."""

from __future__ import annotations

from collections.abc import Callable

import torch
from harness import Gate, count_gate

DIM, NOPE, FP8_BLOCK, FP4_BLOCK = 512, 448, 64, 32
ENTRY = 576
# Of E2M1 codes 0..7, and of all sixteen.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def data_view(cache: torch.Tensor, page: int, size: int = ENTRY) -> torch.Tensor:
    """Data bytes [pages, page, size] of a coded cache."""
    return cache[:, : size * page].unflatten(1, (page, size))


def scale_view(cache: torch.Tensor, page: int, size: int = ENTRY, scales: int = 8) -> torch.Tensor:
    """Scale bytes [pages, page, scales] of a coded cache."""
    return cache[:, size * page : (size + scales) * page].unflatten(1, (page, scales))


def entries(
    cache: torch.Tensor, at: torch.Tensor, page: int, size: int = ENTRY, scales: int = 8
) -> tuple[torch.Tensor, torch.Tensor]:
    """Data bytes [n, size] and scale bytes [n, scales] of entries `at`."""
    return (
        data_view(cache, page, size)[at // page, at % page],
        scale_view(cache, page, size, scales)[at // page, at % page],
    )


def restore(
    before: torch.Tensor,
    at: torch.Tensor,
    page: int,
    data: torch.Tensor,
    scales: torch.Tensor,
) -> torch.Tensor:
    """The cache before, with entries `at` replaced."""
    cache, size = before.clone(), data.shape[1]
    data_view(cache, page, size)[at // page, at % page] = data
    scale_view(cache, page, size, scales.shape[1])[at // page, at % page] = scales
    return cache


def same_gate(name: str, one: torch.Tensor, other: torch.Tensor) -> Gate:
    """Equal bytes."""
    same = torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))
    return Gate(name, same, float(not same))


def power_byte(amax: torch.Tensor, largest: float, floor: float) -> torch.Tensor:
    """ceil(log2(max(amax, floor) / largest)) + 127, exactly."""
    mantissa, exponent = torch.frexp(amax.clamp_min(floor) / largest)
    return exponent + 127 - (mantissa == 0.5).int()


def e4m3(value: torch.Tensor) -> torch.Tensor:
    """E4M3 bytes of values."""
    return value.clamp(-448, 448).float().to(torch.float8_e4m3fn).view(torch.uint8)


def e2m1(value: torch.Tensor) -> torch.Tensor:
    """E2M1 codes: nearest, ties to even, saturating."""
    a, code = value.abs(), torch.zeros(value.shape, dtype=torch.uint8, device=value.device)
    for low, high, even in zip(E2M1, E2M1[1:], (0, 1) * 4, strict=False):
        middle = (low + high) / 2
        code += ((a >= middle) if even else (a > middle)).to(torch.uint8)
    return code | (torch.signbit(value).to(torch.uint8) << 3)


def _ends(reference: torch.Tensor, bound: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The two ends of the permitted values, rounded to bf16; a zero keeps its sign."""
    low = torch.where(bound == 0, reference, reference - bound)
    high = torch.where(bound == 0, reference, reference + bound)
    return low.bfloat16().double(), high.bfloat16().double()


def code_gates(
    name: str,
    got: torch.Tensor,
    scales: torch.Tensor,
    reference: torch.Tensor,
    bound: torch.Tensor,
    block: int,
    kind: str,
    free: float,
) -> list[Gate]:
    """Codes and scales are the reference's, unless a rounding boundary lies within the bound.

    Every value of [r - bound, r + bound] is rounded to bf16, scaled and encoded; encoding is
    monotonic, so the permitted codes are those between the ones of the two ends.

    Args:
        name: prefix of the gates.
        got: codes [n, width], one a byte.
        scales: bytes [n, width / block].
        reference: float64 [n, width].
        bound: of its error, likewise.
        block: numbers that share a scale.
        kind: `e4m3` or `e2m1`.
        free: share of codes that the bound may leave undecided.
    """
    encode: Callable[[torch.Tensor], torch.Tensor] = e4m3 if kind == "e4m3" else e2m1
    largest, floor = (448.0, 1e-4) if kind == "e4m3" else (6.0, 6 * 2.0**-126)
    reference, bound, got = (t.unflatten(1, (-1, block)) for t in (reference, bound, got))
    low, high = _ends(reference, bound)
    nan = torch.isnan(reference)
    clean = ~nan.any(-1)
    top = torch.maximum(low.abs(), high.abs()).amax(-1)
    least = torch.where((low < 0) & (high > 0), 0.0, torch.minimum(low.abs(), high.abs())).amax(-1)
    byte = scales.int()
    wrong_scale = (byte < power_byte(least, largest, floor)) | (
        byte > power_byte(top, largest, floor)
    )
    step = torch.exp2(byte.double() - 127).unsqueeze(-1)
    first, last = encode(low / step), encode(high / step)
    values = [decoded(code, kind) for code in (first, got, last)]
    forced = first == last
    between = (values[1] >= values[0]) & (values[1] <= values[2])
    wrong = ~nan & clean.unsqueeze(-1) & ~torch.where(forced, got == first, between)
    loose, most = int((~forced & ~nan).sum()), 3 + free * forced.numel()
    gates = [count_gate(f"{name}scales", clean & wrong_scale), count_gate(f"{name}codes", wrong)]
    if kind == "e4m3":
        gates.append(count_gate(f"{name}code_nan", torch.isnan(values[1]) != nan))
    detail = f"{loose} of {forced.numel()}"
    return [*gates, Gate(f"{name}codes_free", loose <= most, loose / most, detail)]


def decoded(code: torch.Tensor, kind: str) -> torch.Tensor:
    """Values of codes, float32."""
    if kind == "e4m3":
        return code.contiguous().view(torch.float8_e4m3fn).float()
    table = torch.tensor([*E2M1, *(-v for v in E2M1)], device=code.device)
    return table[code.long()]


def unpacked(packed: torch.Tensor) -> torch.Tensor:
    """Codes [n, 2k] of bytes [n, k], the even element in the low nibble."""
    return torch.stack((packed & 15, packed >> 4), -1).flatten(1)


def fp8_gates(
    data: torch.Tensor,
    scales: torch.Tensor,
    reference: torch.Tensor,
    bound: torch.Tensor,
    free: float = 1e-3,
) -> list[Gate]:
    """Gates on fp8 entries' leading dims; the RoPE dims are the caller's."""
    used = NOPE // FP8_BLOCK
    args = (reference[:, :NOPE], bound[:, :NOPE], FP8_BLOCK, "e4m3", free)
    return [
        *code_gates("", data[:, :NOPE], scales[:, :used], *args),
        count_gate("scale_pad", scales[:, used:] != 0),
    ]


def fp4_gates(
    data: torch.Tensor,
    scales: torch.Tensor,
    reference: torch.Tensor,
    bound: torch.Tensor,
    free: float = 1e-3,
) -> list[Gate]:
    """Gates on MXFP4 entries."""
    return code_gates("index_", unpacked(data), scales, reference, bound, FP4_BLOCK, "e2m1", free)


def hadamard(x: torch.Tensor) -> torch.Tensor:
    """Rows times the Sylvester matrix over the root of its size."""
    matrix = torch.ones(1, 1, dtype=x.dtype, device=x.device)
    while matrix.shape[0] < x.shape[1]:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)), 0)
    return x @ matrix * x.shape[1] ** -0.5


def value_gates(
    name: str, got: torch.Tensor, reference: torch.Tensor, bound: torch.Tensor
) -> list[Gate]:
    """Gates on values of MXFP4, kept as floats: those between the two ends of the bound.

    Where the scale is undecided, either is permitted; a row of a NaN gives nothing finite.

    Args:
        name: prefix of the gates.
        got: [n, width].
        reference: float64 [n, width].
        bound: of its error, likewise.
    """
    got, reference, bound = (t.unflatten(1, (-1, FP4_BLOCK)) for t in (got, reference, bound))
    bad = ~reference.isfinite().all(-1)
    low, high = _ends(reference, bound)
    top = torch.maximum(low.abs(), high.abs()).amax(-1)
    least = torch.where((low < 0) & (high > 0), 0.0, torch.minimum(low.abs(), high.abs())).amax(-1)
    floor = 6 * 2.0**-126
    first, last = power_byte(least, 6.0, floor), power_byte(top, 6.0, floor)
    ok = torch.zeros_like(got, dtype=torch.bool)
    for byte in (first, last):
        step = torch.exp2(byte.double() - 127).unsqueeze(-1)
        ends = [decoded(e2m1(end / step), "e2m1").double() * step for end in (low, high)]
        ok |= (got.double() >= ends[0]) & (got.double() <= ends[1])
    loose = int((first != last)[~bad].sum())
    most = 3 + 1e-3 * first.numel()
    return [
        count_gate(f"{name}values", ~ok & ~bad.unsqueeze(-1)),
        count_gate(f"{name}finite", got.isfinite() & bad.unsqueeze(-1) & (reference.isnan())),
        Gate(f"{name}scales_free", loose <= most, loose / most, f"{loose} of {first.numel()}"),
    ]
