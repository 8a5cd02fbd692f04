from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dsv4c.codegen.build import build_kernels
from dsv4c.codegen.cache import KernelCache
from dsv4c.codegen.kernel import ARCHS, NodeFacts, Refusal, ValueFacts
from dsv4c.codegen.kernels import linears as family
from dsv4c.codegen.render import render
from dsv4c.codegen.tiles.cards import SMEM
from dsv4c.codegen.tiles.linears import SMS, LargeTile, SmallTile, linears_tiles

CSA: list[family.Weight] = [
    ("fp8_128", 1024, False),
    ("fp8_128", 512, False),
    ("bf16", 1024, True),
    ("bf16", 64, True),
]
ALL: list[family.Weight] = [
    ("nvfp4", 512, False),
    ("mxfp4", 256, True),
    ("fp8_128_f32", 384, False),
    ("bf16", 72, True),
    ("fp8_128", 136, True),
]
HEAD: list[family.Weight] = [("bf16", 129280, True)]
NODES = {
    "csa": (4096, CSA),
    "q": (1024, [("fp8_128", 32768, False), ("fp8_128", 8192, False)]),
    "o": (8192, [("fp8_128", 4096, False)]),
    "pro_o": (16384, [("fp8_128", 7168, False)]),
    "all": (2560, ALL),
    "nvfp4": (8192, [("nvfp4", 4096, False)]),
    "head": (4096, HEAD),
    "tiny": (128, [("fp8_128", 32, True)]),
    "tiny_q": (128, [("fp8_128", 4096, False), ("fp8_128", 4096, False)]),
    "narrow": (128, ALL),
    "bf16_nvfp4": (1024, [("bf16", 256, True), ("nvfp4", 512, False)]),
}
X = ValueFacts("tensor", "bf16", ("T", 4096))
WEIGHT = ValueFacts("weight", "u8", (1024, 4096), format="fp8_128")
Y = ValueFacts("tensor", "bf16", ("T", 1024))


def select(
    *weights: ValueFacts, x: ValueFacts = X, ys: tuple[ValueFacts, ...] = (Y,)
) -> family.Params | Refusal:
    return family.select(NodeFacts(family.KIND, (x, *weights), ys, {}), "sm_90a")


def test_rendered_text(golden: Callable[[str, str], None]) -> None:
    source = render(family.KIND, family.choose(4096, CSA, "sm_90a"), "sm_90a", ["layers.2"])
    golden(f"kernels/{source.name}.sm_90a.py", source.text)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("node", NODES)
def test_rendered_text_has_no_lint(node: str, arch: str) -> None:
    text = render(family.KIND, family.choose(*NODES[node], arch), arch).body
    assert max(len(line) for line in text.splitlines()) <= 110
    command = [sys.executable, "-m", "ruff", "check", "--select", "F,E7,W", "--isolated", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("depth", "weights", "name"),
    [
        (4096, CSA, "linears_k4096_fp8_128_1024_512_bf16_1024f_64f"),
        (2560, ALL, "linears_k2560_nvfp4_512_mxfp4_256f_fp8_128_f32_384_bf16_72f_fp8_128_136f"),
        (4096, HEAD, "linears_k4096_bf16_129280f"),
    ],
)
def test_names_and_weights(depth: int, weights: list[family.Weight], name: str) -> None:
    params = family.choose(depth, weights, "sm_90a")
    assert family.kernel_name(params, "sm_90a") == name
    assert list(family.weights_of(params)) == weights


def test_params_from_facts() -> None:
    head = ValueFacts("weight", "bf16", (64, 4096), format="bf16")
    params = select(WEIGHT, head, ys=(Y, ValueFacts("tensor", "f32", ("T", 64))))
    assert isinstance(params, family.Params)
    assert family.weights_of(params) == (("fp8_128", 1024, False), ("bf16", 64, True))
    context = family.context(params)
    assert context["formats"] == ("fp8_128", "bf16")
    assert context["fp8"]
    assert not context["fp4"]
    assert context["large_weights"] == ((1024, "fp8_128", False), (64, "bf16", True))


@pytest.mark.parametrize(
    ("x", "weight", "y", "reason"),
    [
        (replace(X, dtype="f32"), WEIGHT, Y, r"x is f32 \['T', 4096\]; takes bf16"),
        (replace(X, dims=("T", "K")), WEIGHT, Y, r"x is bf16 \['T', 'K'\]"),
        (X, replace(WEIGHT, format="f32"), Y, "a weight is f32; takes bf16, fp8_128"),
        (X, replace(WEIGHT, dims=(1024, 2048)), Y, r"is \[1024, 2048\]; takes \[rows, 4096\]"),
        (X, replace(WEIGHT, dims=(1020, 4096)), Y, "has 1020 rows; takes multiples of 8"),
        (X, WEIGHT, replace(Y, dims=("T", 512)), r"bf16 \['T', 512\]; takes bf16 or f32"),
        (X, WEIGHT, replace(Y, dtype="i32"), "a result is i32"),
        (
            replace(X, dims=("T", 96)),
            replace(WEIGHT, dims=(1024, 96), format="nvfp4"),
            Y,
            "nvfp4 has 96 columns; takes multiples of 128",
        ),
    ],
)
def test_refuses(x: ValueFacts, weight: ValueFacts, y: ValueFacts, reason: str) -> None:
    refusal = select(weight, x=x, ys=(y,))
    assert isinstance(refusal, Refusal)
    assert re.search(reason, refusal.reason)


def test_refuses_too_many_and_unpaired_weights() -> None:
    assert select(WEIGHT, WEIGHT) == Refusal(
        "takes 1 to 12 weights and a result for each, not 2 weights and 1 results"
    )
    many = select(*13 * [WEIGHT], ys=tuple(13 * [Y]))
    assert isinstance(many, Refusal)


def large_bytes(tile: LargeTile, widest: int) -> int:
    """Of shared memory: rings, scales of 4-bit weights, results on their way, sums, barriers."""
    scales = tile.rows // 32 * 4 * 128 if widest == 4 else 0
    rings = tile.stages * (tile.tokens * 128 + 16) + tile.ahead * (tile.rows * 128 + scales + 16)
    if tile.split > 1:
        return rings
    results = min(tile.rows, 128) // 64 * tile.buffers * 8192
    return rings + results + (64 * tile.tokens * 4 if tile.rows == 64 else 0)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("node", NODES)
def test_tiles_cover_every_batch_and_fit(node: str, arch: str) -> None:
    depth, weights = NODES[node]
    tiles = linears_tiles(arch, depth, weights)
    limits = [tile.most for tile in tiles]
    assert limits[-1] == 0
    assert limits[:-1] == sorted(set(limits[:-1]))
    widest = max(16 // family.BITS[form] for form, _, _ in weights)
    least = min(16 // family.BITS[form] for form, _, _ in weights)
    for tile in tiles:
        if isinstance(tile, LargeTile):
            assert arch == "sm_90a"
            assert large_bytes(tile, widest) <= SMEM
            continue
        scales = tile.rows * 4 // 32 * tile.depth // 64 * 128 if widest == 4 else 0
        stage = (tile.rows + tile.tokens) * tile.depth * 2
        sums = tile.warps_k * tile.tokens * (tile.rows * widest + 4) * 4
        count = sum(-(-n // (tile.rows * 16 // family.BITS[form])) for form, n, _ in weights)
        if count <= SMS and sums <= tile.stages * stage:
            sums = 0  # the ring becomes the sums
        elif tile.tokens <= 8:
            sums *= 2
        room = SMEM // 2 if tile.beside else SMEM
        assert tile.stages * (stage + scales + 16) + sums <= room
        assert tile.tokens >= tile.most
        assert tile.depth % (64 * tile.warps_k) == 0
        assert tile.rows * least % (16 * tile.warps_m) == 0
        # A tile of FP8 weights has one scale for each 128 columns; a box has at most 256 rows.
        assert tile.rows <= 64


@pytest.mark.parametrize("node", NODES)
def test_no_box_has_several_pieces_of_a_row_that_has_one(node: str) -> None:
    depth, weights = NODES[node]
    for tile in linears_tiles("sm_90a", depth, weights):
        for form, _, _ in weights:
            bits = family.BITS[form]  # packed 4-bit weights come by plain bulk copies
            if isinstance(tile, SmallTile) and bits > 4 and depth * bits == 8 * 128:
                assert tile.depth == depth
    assert depth // 64 > 1  # of the tokens


@pytest.mark.parametrize("node", NODES)
def test_rows_have_the_same_bits_in_a_bucket(node: str) -> None:
    tiles = linears_tiles("sm_90a", *NODES[node])
    for low, high in ((1, 16), (17, 32), (33, 64)):
        chosen = {
            next(tile for tile in tiles if not tile.most or count <= tile.most)
            for count in (low, high)
        }
        # Which part of K is added up where.
        orders = {tile.warps_k if isinstance(tile, SmallTile) else tile for tile in chosen}
        assert len(orders) == 1


def test_tiles_leave_blocks_even_shares() -> None:
    def rows(*weights: family.Weight) -> int:
        return next(tile.rows for tile in linears_tiles("sm_90a", 1024, weights))

    # 256 tiles of 128 FP8 rows for 132 blocks, then 320: three for some, two for others.
    assert rows(("fp8_128", 32768, False)) == 64
    assert rows(("fp8_128", 32768, False), ("fp8_128", 8192, False)) == 32


def test_a_ring_has_the_room_of_sums_where_a_block_has_one_tile() -> None:
    def stages(rows: int) -> int:
        found = linears_tiles("sm_100a", 7168, [("fp8_128", 2048, False), ("bf16", rows, True)])
        last = found[-1]
        assert isinstance(last, SmallTile)
        assert (last.rows, last.tokens) == (32, 64)
        return last.stages

    # 32 tiles of FP8, 100 or 101 of bf16, for 132 blocks.
    assert stages(3200) == 4
    assert stages(3232) == 3


def test_tokens_of_short_rows_stay_in_shared_memory() -> None:
    def tile(depth: int) -> LargeTile | SmallTile:
        found = linears_tiles("sm_90a", depth, [("fp8_128", 32768, False)])
        return next(one for one in found if one.most == 64)

    short, longer = tile(1024), tile(1536)
    assert isinstance(short, LargeTile)
    assert (short.tokens, short.stages * 64, short.split) == (64, 1024, 1)
    assert isinstance(longer, LargeTile)
    assert (longer.rows, longer.tokens, longer.stages * 64, longer.split) == (64, 64, 768, 1)
    assert isinstance(tile(2048), SmallTile)


@pytest.mark.parametrize("node", NODES)
def test_warpgroups_that_take_turns_over_many_tiles_have_stages_of_one_size(node: str) -> None:
    depth, weights = NODES[node]
    for tile in linears_tiles("sm_90a", depth, weights):
        if isinstance(tile, LargeTile) and tile.rows == 64 and tile.split == 1:
            assert len({family.BITS[form] for form, _, _ in weights}) == 1


@pytest.mark.parametrize("node", NODES)
def test_a_group_can_hold_tokens_until_its_next_have_come(node: str) -> None:
    depth, weights = NODES[node]
    for tile in linears_tiles("sm_90a", depth, weights):
        if isinstance(tile, LargeTile) and tile.tokens <= 64:
            groups = 2 if tile.rows == 64 else 1
            steps = max(16 // family.BITS[form] for form, _, _ in weights)
            assert tile.stages >= steps * (groups + 1)
            assert tile.stages % steps == 0


def test_many_tokens_have_tiles_of_their_own_where_wgmma_takes_the_weights() -> None:
    def last(weights: list[family.Weight], depth: int = 1024) -> str:
        return type(linears_tiles("sm_90a", depth, weights)[-1]).__name__

    assert last([("bf16", 64, True), ("fp8_128", 128, False)]) == "LargeTile"
    assert last([("fp8_128_f32", 128, False)]) == "SmallTile"
    assert last([("fp8_128", 96, False)]) == "SmallTile"
    assert last([("bf16", 96, False)], depth=1088) == "SmallTile"


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_compiles_without_spills(arch: str, tmp_path: Path) -> None:
    weights: list[family.Weight] = [("fp8_128", 32, True), ("bf16", 8, False)]
    source = render(family.KIND, family.choose(128, weights, arch), arch)
    (entry,) = build_kernels([source], cache=KernelCache(tmp_path), workers=1)
    assert entry.resources.spills == 0
    assert entry.resources.smem <= SMEM
