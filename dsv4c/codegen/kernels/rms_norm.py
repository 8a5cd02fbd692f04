"""Family `rms_norm`: RMSNorm with a weight, for the norms that no other kernel takes in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from dsv4c.codegen.kernel import KernelParams, NodeFacts, Refusal
from dsv4c.codegen.tiles.rms_norm import RMS_NORM

KIND = "rms_norm"
VECTOR = 8
WEIGHTS = ("bf16", "f32")


@dataclass(frozen=True)
class Params(KernelParams):
    """Parameters of one kernel.

    Args:
        width: elements of a row.
        weight: format of the weight, `bf16` or `f32`.
        eps: added to the mean of squares.
        warps: warps of a block, which does one row.
        pdl: launch while the previous kernel of the stream drains.
    """

    width: int
    weight: str
    eps: float
    warps: int
    pdl: bool


def select(facts: NodeFacts, arch: str) -> Params | Refusal:
    """Parameters for x, weight -> y."""
    if len(facts.inputs) != 2:
        return Refusal(f"takes 2 inputs, not {len(facts.inputs)}")
    x, weight = facts.inputs
    width = x.dims[-1]
    if x.dtype != "bf16" or len(x.dims) != 2:
        return Refusal(f"x is {x.dtype} {list(x.dims)}; takes bf16 rows")
    if not isinstance(width, int) or width % VECTOR:
        return Refusal(f"rows of {width}; takes multiples of {VECTOR}")
    if weight.format not in WEIGHTS:
        return Refusal(f"the weight is {weight.format}; takes {' or '.join(WEIGHTS)}")
    return choose(width, weight.format, arch, eps=float(facts.attrs.get("eps", 1e-6)))


def choose(width: int, weight: str, arch: str, eps: float = 1e-6) -> Params:
    """Parameters with the tiles of `dsv4c.codegen.tiles` for `arch`."""
    tile = RMS_NORM[arch]
    warps = min(-(-width // (32 * VECTOR)), tile.most_warps)
    return Params(width, weight, eps, warps, tile.pdl)


def kernel_name(params: KernelParams, arch: str) -> str:
    """`rms_norm_1024`: width, and `_f32` for a weight of that format."""
    chosen = cast(Params, params)
    return f"{KIND}_{chosen.width}{'_f32' if chosen.weight == 'f32' else ''}"


def context(params: KernelParams) -> dict[str, object]:
    """How many vectors a row has, and how many a thread takes of it."""
    chosen = cast(Params, params)
    vectors = chosen.width // VECTOR
    return {"vectors": vectors, "turns": -(-vectors // (32 * chosen.warps))}
