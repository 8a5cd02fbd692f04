"""Inverse RoPE + grouped output projection wo_a: which nodes the template takes, and with what."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import cast

from dsv4c.codegen.kernel import KernelParams, NodeFacts, Refusal, ValueFacts
from dsv4c.codegen.tiles.cards import SMS
from dsv4c.codegen.tiles.inverse_rope_wo_a import INVERSE_ROPE_WO_A

KIND = "inverse_rope_wo_a"
DIM, ROPE, BLOCK = 512, 64, 128
FORMATS = ("fp8_128", "bf16")


@dataclass(frozen=True, slots=True)
class Params(KernelParams):
    """What decides the kernel's text.

    Args:
        heads: attention heads H.
        groups: groups g of H / g consecutive heads.
        rows: rows n of one group's weight.
        weight: its format, `fp8_128` or `bf16`.
        tiles: key of the tile table: the target.
    """

    heads: int
    groups: int
    rows: int
    weight: str
    tiles: str


def select(facts: NodeFacts, arch: str) -> Params | Refusal:
    """Parameters for inputs (o, angles, wo_a) and output z, or why the template does not fit."""
    if len(facts.inputs) != 3 or len(facts.outputs) != 1:
        return Refusal(
            f"takes 3 inputs and 1 output, not {len(facts.inputs)} and {len(facts.outputs)}"
        )
    o, angles, weight = facts.inputs
    z = facts.outputs[0]
    if reason := _tensor_reason(o, angles, z):
        return Refusal(reason)
    if weight.format not in FORMATS:
        return Refusal(f"weight is {weight.format}; takes {' or '.join(FORMATS)}")
    heads, (out, depth) = o.dims[1], weight.dims
    if not isinstance(heads, int) or not isinstance(out, int) or not isinstance(depth, int):
        return Refusal(f"heads and weight dims must be known, not {heads} and {list(weight.dims)}")
    if depth % DIM or heads * DIM % depth:
        return Refusal(f"groups of depth {depth} do not divide {heads} heads of {DIM}")
    groups = heads * DIM // depth
    if out % (groups * BLOCK):
        return Refusal(f"{out} weight rows in {groups} groups, not multiples of {BLOCK} each")
    if z.dims[1] != out:
        return Refusal(f"z has {z.dims[1]} columns, the weight {out} rows")
    return choose(heads, groups, out // groups, weight.format, arch)


def choose(heads: int, groups: int, rows: int, weight: str, arch: str) -> Params:
    """Parameters with the tiles of `dsv4c.codegen.tiles` for `arch`."""
    return Params(heads, groups, rows, weight, arch)


def _tensor_reason(o: ValueFacts, angles: ValueFacts, z: ValueFacts) -> str | None:
    """Why o, angles or z is not taken, or None."""
    wanted = (
        ("o", o, "bf16", (None, None, DIM)),
        ("angles", angles, "f32", (None, ROPE)),
        ("z", z, "bf16", (None, None)),
    )
    for name, value, dtype, dims in wanted:
        fits = len(value.dims) == len(dims) and all(
            want in (None, size) for want, size in zip(dims, value.dims, strict=True)
        )
        if value.dtype != dtype or not fits or value.dims[0] != o.dims[0]:
            shape = [o.dims[0], *("any" if want is None else want for want in dims[1:])]
            return f"{name} is {value.dtype} {list(value.dims)}; takes {dtype} {shape}"
    return None


def kernel_name(params: KernelParams, arch: str) -> str:
    """`inverse_rope_wo_a_fp8_128_g8_4096x1024`: format, groups, depth x rows of a group."""
    chosen = cast(Params, params)
    depth = chosen.heads * DIM // chosen.groups
    return f"{KIND}_{chosen.weight}_g{chosen.groups}_{depth}x{chosen.rows}"


def context(params: KernelParams) -> dict[str, object]:
    """What the template needs beyond the parameters."""
    chosen = cast(Params, params)
    depth = chosen.heads * DIM // chosen.groups
    wide = chosen.groups * chosen.rows // 64 > SMS["sm_90a"]
    tiles = INVERSE_ROPE_WO_A[chosen.tiles, chosen.weight, wide]
    return {
        "depth": depth,
        "fp8": chosen.weight == "fp8_128",
        "wgmma": any(tile.wgmma for tile in tiles),
        "tiles": tuple((tile.most, astuple(tile)[1:]) for tile in tiles),
        "pdl": True,
    }
