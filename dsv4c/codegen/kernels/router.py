"""Router: logits, scores, top-k or the hash table, weights, and the grouping of pairs by expert."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from typing import cast

from dsv4c.codegen.kernel import KernelParams, NodeFacts, Refusal, ValueFacts, Workspace
from dsv4c.codegen.kernels import _moe, linears
from dsv4c.codegen.tiles.linears import LargeTile, linears_tiles
from dsv4c.codegen.tiles.router import ROUTER, SPLITS, WORK

KIND = "router"
MOST_EXPERTS, MOST_CHOSEN = 512, 16
# Parts of the workspace, in logits, that many tokens need; bits of shared memory for grouping fewer.
MANY_PARTS, BITS = 3, 8 * 100_000
FORMS = ("bf16", "f32")
Many = tuple[tuple[int, tuple[int, ...], int], ...]


@dataclass(frozen=True, slots=True)
class Params(KernelParams):
    """What decides the kernel's text.

    Args:
        experts: E.
        top_k: experts of a token.
        depth: of x.
        vocabulary: rows of the table that chooses by token id; 0: the scores choose.
        scale: of the weights.
        tiles: key of the tile table: the target.
        form: of the gate.
    """

    experts: int
    top_k: int
    depth: int
    vocabulary: int
    scale: float
    tiles: str
    form: str = "bf16"


def select(facts: NodeFacts, arch: str) -> Params | Refusal:
    """For inputs (x, gate, bias) or (x, gate, table, ids), results (experts, weights, order, offsets)."""
    if len(facts.inputs) not in (3, 4) or len(facts.outputs) != 4:
        counts = f"{len(facts.inputs)} and {len(facts.outputs)}"
        return Refusal(f"takes 3 or 4 inputs and 4 outputs, not {counts}")
    x, gate, choice = facts.inputs[:3]
    if gate.format not in FORMS or len(gate.dims) != 2:
        known = " or ".join(FORMS)
        return Refusal(f"gate is {gate.format} {list(gate.dims)}; takes {known} of 2 dims")
    experts, depth = cast(tuple[int, int], gate.dims)
    tokens, top_k = facts.outputs[0].dims
    if not isinstance(top_k, int) or top_k > MOST_CHOSEN or experts > MOST_EXPERTS or depth % 64:
        most = f"top {MOST_CHOSEN}, {MOST_EXPERTS} experts, a depth in steps of 64"
        return Refusal(f"top {top_k} of {experts} experts, depth {depth}; takes up to {most}")
    if reason := _moe.tensor_reason("x", x, "bf16", (tokens, depth)):
        return Refusal(reason)
    if reason := _choice_reason(facts, choice, experts, top_k):
        return Refusal(reason)
    vocabulary = cast(int, choice.dims[0]) if len(facts.inputs) == 4 else 0
    scale = float(facts.attrs["scale"])
    return choose(experts, top_k, depth, vocabulary, scale, arch, str(gate.format))


def _choice_reason(facts: NodeFacts, choice: ValueFacts, experts: int, top_k: int) -> str | None:
    """Why a bias, or a table and ids, is not taken, or None."""
    tokens = facts.outputs[0].dims[0]
    if len(facts.inputs) == 4:
        if choice.format != "i64" or len(choice.dims) != 2 or choice.dims[1] != top_k:
            return f"table is {choice.format} {list(choice.dims)}; takes i64 with {top_k} columns"
        return _moe.tensor_reason("ids", facts.inputs[3], "i32", (tokens,))
    if (choice.format, choice.dims) != ("f32", (experts,)):
        return f"bias is {choice.format} {list(choice.dims)}; takes f32 [{experts}]"
    return None


def choose(
    experts: int,
    top_k: int,
    depth: int,
    vocabulary: int,
    scale: float,
    arch: str,
    form: str = "bf16",
) -> Params:
    """Parameters with the tiles of `dsv4c.codegen.tiles` for `arch`."""
    return Params(experts, top_k, depth, vocabulary, scale, arch, form)


def kernel_name(params: KernelParams, arch: str) -> str:
    """`router_e256_k6_4096_x1p5`: experts, chosen, depth, scale; `_hash` with a table; `_f32`."""
    chosen = cast(Params, params)
    table = f"_hash{chosen.vocabulary}" if chosen.vocabulary else ""
    scale = f"{chosen.scale:g}".replace(".", "p").replace("-", "m").replace("+", "")
    form = "_f32" if chosen.form == "f32" else ""
    return f"{KIND}_e{chosen.experts}_k{chosen.top_k}_{chosen.depth}_x{scale}{table}{form}"


def workspaces(params: KernelParams) -> tuple[Workspace, ...]:
    """Partial logits, and counters of finished blocks: of all, then of each tile of tokens."""
    chosen = cast(Params, params)
    parts = max(MANY_PARTS, *(tile[3] for tile in _tiles(chosen)))
    return (
        Workspace("f32", (f"{parts * chosen.experts}*T",)),
        Workspace("i32", ("2*T",), zeroed=True),
    )


def _tiles(chosen: Params) -> list[tuple[int, int, int, int, int]]:
    """The tiles' fields, with parts of K for pieces, up to where one launch takes all tokens."""
    pieces = chosen.depth // 512 if chosen.depth % 512 == 0 else 1
    most = min(BITS // (chosen.experts * chosen.top_k), WORK // (chosen.experts * chosen.depth))
    fitted: list[tuple[int, int, int, int, int]] = []
    for tile in ROUTER[chosen.tiles]:
        parts = pieces // max(
            n for n in range(1, min(tile.pieces or pieces, pieces) + 1) if pieces % n == 0
        )
        limit = min(tile.most, most // 16 * 16)
        if not fitted or limit != fitted[-1][0]:
            fitted.append((limit, tile.rows, tile.tokens, parts, tile.k_warps))
    return fitted


def _many(chosen: Params, most: int) -> tuple[dict[str, object], Many]:
    """What wgmma's products need, and their tiles for more than `most` tokens; or those of mma.sync."""
    weights = [("bf16", chosen.experts, True)]
    tiles = [
        tile
        for tile in linears_tiles(chosen.tiles, chosen.depth, weights)
        if isinstance(tile, LargeTile) and (tile.rows, tile.tokens) == (128, 128)
    ]
    if not tiles or chosen.form != "bf16":
        # An f32 gate takes the registers of three: few experts a block.
        _, rows, tokens, _, k_warps = _tiles(chosen)[-1 if chosen.form == "bf16" else -2]
        # Choices are made from logits of all of K.
        return {}, ((0, (0, rows, tokens, 1, k_warps), SPLITS[-1][2]),)
    row_tiles = -(-chosen.experts // 128)
    fitted = [(n, blocks // (row_tiles * n) * 128, tokens) for n, blocks, tokens in SPLITS]
    found = tuple(
        (limit, astuple(replace(tiles[-1], split=n))[1:], tokens)
        for n, limit, tokens in fitted
        if chosen.depth % (128 * n) == 0 and (limit > most or n == 1)
    )
    return linears.context(linears.choose(chosen.depth, weights, chosen.tiles)), found


def context(params: KernelParams) -> dict[str, object]:
    """What the template needs beyond the parameters."""
    chosen = cast(Params, params)
    tiles = tuple(_tiles(chosen)[:-1])
    products, many = _many(chosen, tiles[-1][0])
    return {**products, "tiles": tiles, "wgmma": bool(products), "many": many, "pdl": True}
