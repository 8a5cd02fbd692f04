"""Down projections of the experts, routed and shared, added up per token."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from typing import cast

from dsv4c.codegen.kernel import KernelParams, NodeFacts, PackedOperand, Refusal, Workspace
from dsv4c.codegen.kernels import _moe
from dsv4c.codegen.tiles.cards import SMS
from dsv4c.codegen.tiles.moe import DOWN, MOST_HELD, fit
from dsv4c.codegen.tiles.moe_large import MoeLargeTile, moe_large_tiles, streamed, turns
from dsv4c.codegen.tuned import tuned

KIND = "moe_down"


@dataclass(frozen=True, slots=True)
class Params(KernelParams):
    """What decides the kernel's text.

    Args:
        experts: routed experts E.
        top_k: of them for each token.
        depth: of the activations.
        width: of the result.
        form: weight format of the routed experts.
        shared_form: of the shared expert, or `none` where there is none.
        tiles: key of the tile table: the target.
    """

    experts: int
    top_k: int
    depth: int
    width: int
    form: str
    shared_form: str
    tiles: str


def select(facts: NodeFacts, arch: str) -> Params | Refusal:
    """For inputs (act, order, offsets, shared act, w2, shared w2) and output y."""
    if len(facts.inputs) != 6 or len(facts.outputs) != 1:
        counts = f"{len(facts.inputs)} and {len(facts.outputs)}"
        return Refusal(f"takes 6 inputs and 1 output, not {counts}")
    act, order, offsets, shared_act, w2, shared2 = facts.inputs
    if len(w2.dims) != 3 or len(order.dims) != 2 or not all(isinstance(n, int) for n in w2.dims):
        return Refusal(f"experts are {list(w2.dims)}, their order {list(order.dims)}")
    experts, width, depth = cast(tuple[int, int, int], w2.dims)
    tokens, top_k = order.dims
    if experts > _moe.MOST_EXPERTS or not isinstance(top_k, int):
        return Refusal(f"{experts} experts, top {top_k}; takes up to {_moe.MOST_EXPERTS}")
    reasons = (
        _moe.tensor_reason("act", act, "bf16", (tokens, top_k, depth)),
        _moe.tensor_reason("order", order, "i32", (tokens, top_k)),
        _moe.tensor_reason("offsets", offsets, "i32", (experts + 1,)),
        _moe.tensor_reason("shared act", shared_act, "bf16", (tokens, depth)),
        _moe.weight_reason("w2", w2, (experts, width, depth), 32),
        _moe.weight_reason("shared w2", shared2, (width, depth), 32),
        _moe.tensor_reason("y", facts.outputs[0], "bf16", (tokens, width)),
    )
    if reason := next((one for one in reasons if one), None):
        return Refusal(reason)
    return choose(experts, top_k, depth, width, str(w2.format), str(shared2.format), arch)


def choose(
    experts: int, top_k: int, depth: int, width: int, form: str, shared: str, arch: str
) -> Params:
    """Parameters with the tiles of `dsv4c.codegen.tiles` for `arch`."""
    return Params(experts, top_k, depth, width, form, shared, arch)


def kernel_name(params: KernelParams, arch: str) -> str:
    """`moe_down_nvfp4_shared_fp8_128_e256_k6_2048x4096`: formats, experts, depth x width."""
    chosen = cast(Params, params)
    dims = f"e{chosen.experts}_k{chosen.top_k}_{chosen.depth}x{chosen.width}"
    return f"{KIND}_{chosen.form}_shared_{chosen.shared_form}_{dims}"


def packed_operands(params: KernelParams) -> tuple[PackedOperand, ...]:
    """w2 of the routed experts and of the shared one."""
    chosen = cast(Params, params)
    routed = PackedOperand((4,), _moe.packing(chosen.form, False))
    if chosen.shared_form == "none":
        return (routed,)
    return (routed, PackedOperand((5,), _moe.packing(chosen.shared_form, False)))


def workspaces(params: KernelParams) -> tuple[Workspace, ...]:
    """Results of each choice and of the shared expert, where many tokens are added up last."""
    chosen = cast(Params, params)
    sums = (chosen.top_k + 1) * chosen.width // turns(chosen.width)
    return (Workspace("f32", (f"{sums}*T",)),) if _large(chosen) else ()


def _large(chosen: Params) -> tuple[MoeLargeTile, ...]:
    forms = (chosen.form, chosen.shared_form)
    dims = (chosen.experts, chosen.top_k, chosen.width)
    return moe_large_tiles(chosen.tiles, *dims, forms)


def context(params: KernelParams) -> dict[str, object]:
    """What the template needs beyond the parameters."""
    chosen = cast(Params, params)
    large = _large(chosen)
    forms, rows = _moe.streamed_forms(chosen.form, chosen.shared_form), chosen.width // 32
    # A block for each slice of rows: all of them run at once if they can.
    groups = 1 if rows <= SMS[chosen.tiles] else 2
    tiles: list[tuple[int, tuple[int, ...]]] = []
    sizes = (chosen.experts, chosen.top_k, chosen.depth, rows)
    shape = _moe.tile_shape(*sizes, chosen.form, chosen.shared_form, MOST_HELD)
    for wish in tuned(KIND, shape, DOWN[chosen.tiles]):
        held = wish.most or MOST_HELD
        more = 4 * (4 * chosen.experts + 256) + 4 * held * 32 * groups
        tile = fit(replace(wish, groups=groups), chosen.depth // 64, rows, forms, more)
        most = tile.most or (streamed(chosen.experts, chosen.top_k) if large else 0)
        tiles.append((most, (*astuple(tile)[1:], held)))
    return {
        "gate_up": False,
        "turns": turns(chosen.width),
        "large": tuple((tile.most, astuple(tile)[1:]) for tile in large),
        "parts": _moe.parts(chosen.form),
        "shared_parts": _moe.parts(chosen.shared_form, "shared_"),
        "tiles": tuple(tiles),
        "pdl": True,
    }
