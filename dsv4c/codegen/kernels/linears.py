"""Linears that share their input: which nodes the template takes, and with what."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import cast

from dsv4c.codegen.kernel import KernelParams, NodeFacts, PackedOperand, Refusal, ValueFacts
from dsv4c.codegen.kernels import _moe
from dsv4c.codegen.tiles.cards import SMEM
from dsv4c.codegen.tiles.linears import SMS, LargeTile, linears_tiles
from dsv4c.codegen.tuned import Shape, tuned

KIND = "linears"
BITS = {"bf16": 16, "fp8_128": 8, "fp8_128_f32": 8, "mxfp4": 4, "nvfp4": 4}
# Boxes of 128 bytes a row; a tensor map needs two pieces of 64 of a token.
COLUMNS = 128
# Tensor maps and pointers of a launch share 4 KB.
MOST = 12

Weight = tuple[str, int, bool]


@dataclass(frozen=True, slots=True)
class Params(KernelParams):
    """What decides the kernel's text.

    Args:
        depth: columns K of all weights.
        weights: `format_rows` of each with an f behind the rows for f32 results, joined by `_`;
            the format is only named where it changes.
        tiles: key of the tile table: the target.
    """

    depth: int
    weights: str
    tiles: str


def select(facts: NodeFacts, arch: str) -> Params | Refusal:
    """Parameters for inputs (x, weights...) and an output for each, or why it does not fit."""
    x, *weights = facts.inputs
    if not weights or len(weights) != len(facts.outputs) or len(weights) > MOST:
        counts = f"{len(weights)} weights and {len(facts.outputs)} results"
        return Refusal(f"takes 1 to {MOST} weights and a result for each, not {counts}")
    if len(x.dims) != 2 or x.dtype != "bf16" or not isinstance(x.dims[1], int):
        return Refusal(f"x is {x.dtype} {list(x.dims)}; takes bf16 [T, K]")
    found: list[Weight] = []
    for weight, y in zip(weights, facts.outputs, strict=True):
        if reason := _reason(x, weight, y):
            return Refusal(reason)
        found.append((str(weight.format), cast(int, weight.dims[0]), y.dtype == "f32"))
    return choose(x.dims[1], found, arch)


def _reason(x: ValueFacts, weight: ValueFacts, y: ValueFacts) -> str | None:
    """Why a weight or its result is not taken, or None."""
    if weight.format not in BITS:
        return f"a weight is {weight.format}; takes {', '.join(BITS)}"
    if len(weight.dims) != 2 or weight.dims[1] != x.dims[1]:
        return f"a weight is {list(weight.dims)}; takes [rows, {x.dims[1]}]"
    rows, depth = weight.dims
    if not isinstance(rows, int) or not isinstance(depth, int) or rows % 8:
        return f"a weight has {rows} rows; takes multiples of 8"
    if depth % COLUMNS:
        return f"{weight.format} has {depth} columns; takes multiples of {COLUMNS}"
    if y.dims != (x.dims[0], rows) or y.dtype not in ("bf16", "f32"):
        return f"a result is {y.dtype} {list(y.dims)}; takes bf16 or f32 {[x.dims[0], rows]}"
    return None


def choose(depth: int, weights: list[Weight], arch: str) -> Params:
    """Parameters for weights (format, rows, f32 results) of `depth` columns."""
    texts: list[str] = []
    before = ""
    for form, rows, f32 in weights:
        texts += [form] if form != before else []
        texts.append(f"{rows}{'f' if f32 else ''}")
        before = form
    return Params(depth, "_".join(texts), arch)


def weights_of(params: Params) -> tuple[Weight, ...]:
    """The weights that `choose` was given."""
    found: list[Weight] = []
    form = ""
    text = params.weights
    while text:
        named = [name for name in BITS if f"{text}_".startswith(f"{name}_")]
        if named:
            form = max(named, key=len)
            text = text.removeprefix(form).removeprefix("_")
        rows, _, text = text.partition("_")
        found.append((form, int(rows.removesuffix("f")), rows.endswith("f")))
    return tuple(found)


def kernel_name(params: KernelParams, arch: str) -> str:
    """`linears_k4096_fp8_128_1024_512_bf16_64f`: columns; rows by format, f for f32 results."""
    chosen = cast(Params, params)
    return f"{KIND}_k{chosen.depth}_{chosen.weights}"


def packed_operands(params: KernelParams) -> tuple[PackedOperand, ...]:
    """The 4-bit weights."""
    weights = enumerate(weights_of(cast(Params, params)), 1)
    return tuple(
        PackedOperand((i,), _moe.packing(form, False))
        for i, (form, _, _) in weights
        if BITS[form] == 4
    )


def _tile_shape(params: Params) -> Shape:
    weights = weights_of(params)
    formats = " ".join(f"{form}:f32" if f32 else form for form, _, f32 in weights)
    rows = tuple(rows for _, rows, _ in weights)
    return {"depth": params.depth, "formats": formats, "rows": rows}


def context(params: KernelParams) -> dict[str, object]:
    """What the template needs beyond the parameters."""
    chosen = cast(Params, params)
    weights = weights_of(chosen)
    formats = tuple(dict.fromkeys(form for form, _, _ in weights))
    fp4 = any(BITS[form] == 4 for form in formats)
    table = linears_tiles(chosen.tiles, chosen.depth, weights)
    tiles = tuned(KIND, _tile_shape(chosen), table)
    wgmma = any(isinstance(tile, LargeTile) for tile in tiles)
    return {
        "weights": weights,
        "formats": formats,
        "bits": tuple(BITS[form] for form in formats),
        "fp8": any(BITS[form] == 8 for form in formats),
        "fp4": fp4,
        "sms": SMS,
        "smem": SMEM,
        "large_weights": tuple((rows, form, f32) for form, rows, f32 in weights) if wgmma else (),
        "tiles": tuple((one.most, isinstance(one, LargeTile), astuple(one)[1:]) for one in tiles),
        "pdl": True,
    }
