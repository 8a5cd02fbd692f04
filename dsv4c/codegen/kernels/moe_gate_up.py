"""Gate and up projections of the experts with clamp, SwiGLU and routing weight."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from typing import cast

from dsv4c.codegen.kernel import KernelParams, NodeFacts, PackedOperand, Refusal
from dsv4c.codegen.kernels import _moe
from dsv4c.codegen.tiles.cards import SMS
from dsv4c.codegen.tiles.moe import GATE_UP, fit
from dsv4c.codegen.tiles.moe_large import moe_large_tiles, streamed
from dsv4c.codegen.tuned import tuned

KIND = "moe_gate_up"


@dataclass(frozen=True, slots=True)
class Params(KernelParams):
    """What decides the kernel's text.

    Args:
        experts: routed experts E.
        top_k: of them for each token.
        depth: of the input.
        width: gates, and ups, of an expert.
        form: weight format of the routed experts.
        shared_form: of the shared expert, or `none` where there is none.
        limit: of the clamp.
        tiles: key of the tile table: the target.
    """

    experts: int
    top_k: int
    depth: int
    width: int
    form: str
    shared_form: str
    limit: float
    tiles: str


def select(facts: NodeFacts, arch: str) -> Params | Refusal:
    """For inputs (x, weights, order, offsets, w1, w3, shared w1, shared w3), outputs (act, shared)."""
    if len(facts.inputs) != 8 or len(facts.outputs) != 2:
        counts = f"{len(facts.inputs)} and {len(facts.outputs)}"
        return Refusal(f"takes 8 inputs and 2 outputs, not {counts}")
    x, weights, order, offsets, w1, w3, shared1, shared3 = facts.inputs
    act, shared_act = facts.outputs
    if len(w1.dims) != 3 or len(weights.dims) != 2 or not all(isinstance(n, int) for n in w1.dims):
        return Refusal(f"experts are {list(w1.dims)}, weights {list(weights.dims)}")
    experts, width, depth = cast(tuple[int, int, int], w1.dims)
    tokens, top_k = weights.dims
    if experts > _moe.MOST_EXPERTS or not isinstance(top_k, int):
        return Refusal(f"{experts} experts, top {top_k}; takes up to {_moe.MOST_EXPERTS}")
    reasons = (
        _moe.tensor_reason("x", x, "bf16", (tokens, depth)),
        _moe.tensor_reason("weights", weights, "f32", (tokens, top_k)),
        _moe.tensor_reason("order", order, "i32", (tokens, top_k)),
        _moe.tensor_reason("offsets", offsets, "i32", (experts + 1,)),
        _moe.weight_reason("w1", w1, (experts, width, depth), 16),
        _moe.weight_reason("w3", w3, (experts, width, depth), 16),
        _moe.weight_reason("shared w1", shared1, (width, depth), 16),
        _moe.weight_reason("shared w3", shared3, (width, depth), 16),
        _moe.tensor_reason("act", act, "bf16", (tokens, top_k, width)),
        _moe.tensor_reason("shared act", shared_act, "bf16", (tokens, width)),
    )
    if reason := next((one for one in reasons if one), None):
        return Refusal(reason)
    if (w1.format, shared1.format) != (w3.format, shared3.format):
        pairs = f"{w1.format} and {w3.format}, {shared1.format} and {shared3.format}"
        return Refusal(f"gate and up are {pairs}; takes one format for both")
    forms = (str(w1.format), str(shared1.format))
    return choose(experts, top_k, depth, width, *forms, float(facts.attrs["limit"]), arch)


def choose(
    experts: int,
    top_k: int,
    depth: int,
    width: int,
    form: str,
    shared: str,
    limit: float,
    arch: str,
) -> Params:
    """Parameters with the tiles of `dsv4c.codegen.tiles` for `arch`."""
    return Params(experts, top_k, depth, width, form, shared, limit, arch)


def kernel_name(params: KernelParams, arch: str) -> str:
    """`moe_gate_up_nvfp4_shared_fp8_128_e256_k6_4096x2048`: formats, experts, depth x width."""
    chosen = cast(Params, params)
    dims = f"e{chosen.experts}_k{chosen.top_k}_{chosen.depth}x{chosen.width}"
    limit = "" if chosen.limit == 10.0 else f"_l{chosen.limit:g}".replace(".", "p")
    return f"{KIND}_{chosen.form}_shared_{chosen.shared_form}_{dims}{limit}"


def packed_operands(params: KernelParams) -> tuple[PackedOperand, ...]:
    """w1 and w3 as one, of the routed experts and of the shared one."""
    chosen = cast(Params, params)
    routed = PackedOperand((4, 5), _moe.packing(chosen.form, True))
    if chosen.shared_form == "none":
        return (routed,)
    return (routed, PackedOperand((6, 7), _moe.packing(chosen.shared_form, True)))


def context(params: KernelParams) -> dict[str, object]:
    """What the template needs beyond the parameters."""
    chosen = cast(Params, params)
    forms = _moe.streamed_forms(chosen.form, chosen.shared_form)
    more = 4 * (4 * chosen.experts + 256)
    sizes = (chosen.experts, chosen.top_k, chosen.depth, chosen.width // 16)
    shape = _moe.tile_shape(*sizes, chosen.form, chosen.shared_form)
    tiles = [
        fit(wish, chosen.depth // 64, chosen.width // 16, forms, more)
        for wish in tuned(KIND, shape, GATE_UP[chosen.tiles])
    ]
    dims = (chosen.experts, chosen.top_k, 2 * chosen.width)
    large = moe_large_tiles(chosen.tiles, *dims, (chosen.form, chosen.shared_form))
    if large:
        tiles[-1] = replace(tiles[-1], most=streamed(chosen.experts, chosen.top_k))
    return {
        "gate_up": True,
        "turns": 1,
        "large": tuple((tile.most, astuple(tile)[1:]) for tile in large),
        "parts": _moe.parts(chosen.form),
        "shared_parts": _moe.parts(chosen.shared_form, "shared_"),
        "tiles": tuple((tile.most, astuple(tile)[1:]) for tile in tiles),
        "sms": SMS[chosen.tiles],
        "pdl": True,
    }
