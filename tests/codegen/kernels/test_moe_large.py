from __future__ import annotations

import pytest

from dsv4c.codegen.kernel import Workspace
from dsv4c.codegen.kernels import moe_down, moe_gate_up
from dsv4c.codegen.render import render
from dsv4c.codegen.tiles import moe_large
from dsv4c.codegen.tiles.cards import SMEM
from dsv4c.codegen.tiles.moe_large import MoeLargeTile, moe_large_tiles, streamed, turns

FLASH = (256, 6, 4096, 2048)
CODES = {"nvfp4": 1024, "mxfp4": 1024, "fp8_128": 2048, "bf16": 4096}
SCALES = {"nvfp4": 128, "mxfp4": 64, "fp8_128": 16, "bf16": 0}


@pytest.mark.parametrize(
    ("experts", "top_k", "most"), [(256, 6, 256), (384, 6, 384), (8, 2, 64), (64, 8, 64)]
)
def test_few_tokens_are_streamed(experts: int, top_k: int, most: int) -> None:
    assert streamed(experts, top_k) == most


def test_tiles_of_flash() -> None:
    mixed = moe_large_tiles("sm_90a", 256, 6, 4096, ("nvfp4", "fp8_128"))
    assert mixed == (
        MoeLargeTile(1706, 8, (32, 64)),
        MoeLargeTile(0, 6, (32, 64, 96, 112, 128)),
    )
    assert moe_large_tiles("sm_90a", 256, 6, 4096, ("nvfp4", "nvfp4"))[1].stages == 8
    assert moe_large_tiles("sm_90a", 256, 6, 4096, ("bf16", "bf16"))[1].stages == 4


@pytest.mark.parametrize("form", CODES)
@pytest.mark.parametrize("shared", CODES)
def test_ring_fits_and_has_room_for_rows_on_their_way(form: str, shared: str) -> None:
    for experts in (8, 384):
        codes, scales = (max(sizes[form], sizes[shared]) for sizes in (CODES, SCALES))
        for tile in moe_large_tiles("sm_90a", experts, 6, 256, (form, shared)):
            ring = tile.stages * (8 * (codes + scales) + 128 * tile.widths[-1])
            tables = 4 * ((len(tile.widths) + 1) * experts + 2)
            assert ring + tables + 8192 + 2048 + 24 * tile.stages + 1024 < SMEM
            assert tile.stages >= 4
            assert list(tile.widths) == sorted(tile.widths)
            assert all(width % 16 == 0 and width <= 128 for width in tile.widths)


@pytest.mark.parametrize(
    ("arch", "experts", "rows"),
    [("sm_100a", 256, 4096), ("sm_90a", 385, 4096), ("sm_90a", 256, 4096 + 128)],
)
def test_no_tiles(arch: str, experts: int, rows: int) -> None:
    assert moe_large_tiles(arch, experts, 6, rows, ("nvfp4", "nvfp4")) == ()


def test_down_wants_room_for_every_choice_and_the_shared_expert() -> None:
    experts, top_k, hidden, width = FLASH
    hopper, blackwell = (
        moe_down.choose(experts, top_k, width, hidden, "nvfp4", "fp8_128", arch)
        for arch in ("sm_90a", "sm_100a")
    )
    assert moe_down.workspaces(hopper) == (Workspace("f32", ("28672*T",)),)
    assert moe_down.workspaces(blackwell) == ()


def test_text_chooses_by_tokens() -> None:
    params = moe_gate_up.choose(*FLASH, "nvfp4", "fp8_128", 10.0, "sm_90a")
    text = render(moe_gate_up.KIND, params, "sm_90a").body
    assert "elif tokens <= 256:" in text
    assert "run_large(*given, LargeTile(6, (32, 64, 96, 112, 128)), stream)" in text
    assert "partial" not in text.split("def entry(")[1]
    params = moe_gate_up.choose(*FLASH, "nvfp4", "fp8_128", 10.0, "sm_100a")
    text = render(moe_gate_up.KIND, params, "sm_100a").body
    assert "large" not in text.replace("largest", "")


def test_turns_share_out_the_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flash, Pro, and widths whose row tiles do not part evenly."""
    widths = (4096, 7168, 1536, 768)
    assert [turns(rows) for rows in widths] == [1, 1, 1, 1]
    monkeypatch.setattr(moe_large, "TURNS", 4)
    assert [turns(rows) for rows in widths] == [4, 4, 2, 1]
