"""Tiles that may be tried: the tables' own are legal, and no candidate changes a token's bits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dsv4c.codegen.kernel import ARCHS, KernelParams
from dsv4c.codegen.kernels import linears, mhc_first, mhc_head, mhc_seam, moe_down, moe_gate_up
from dsv4c.codegen.render import render
from dsv4c.codegen.spaces import space_of
from dsv4c.codegen.tuned import Chosen, Lookup

FP8, BF16 = "fp8_128", "bf16"
KERNELS: dict[str, tuple[str, KernelParams]] = {
    "q": ("linears", linears.choose(1024, [(FP8, 32768, False), (FP8, 8192, False)], "sm_90a")),
    "o": ("linears", linears.choose(8192, [(FP8, 4096, False)], "sm_90a")),
    "csa": (
        "linears",
        linears.choose(4096, [(FP8, 1024, False), (FP8, 512, False), (BF16, 1024, True)], "sm_90a"),
    ),
    "indexed": (
        "linears",
        linears.choose(
            4096,
            [(FP8, 1024, False), (FP8, 512, False)]
            + [(BF16, rows, True) for rows in (256, 256, 64, 1024, 1024)],
            "sm_90a",
        ),
    ),
    "pro_o": ("linears", linears.choose(16384, [(FP8, 7168, False)], "sm_90a")),
    "mxfp4": ("linears", linears.choose(1024, [("mxfp4", 4096, False)], "sm_90a")),
    "nvfp4_q": (
        "linears",
        linears.choose(1024, [("nvfp4", 32768, False), ("nvfp4", 8192, False)], "sm_90a"),
    ),
    "narrow": ("linears", linears.choose(128, [(FP8, 4096, False)], "sm_90a")),
    "nvfp4": ("linears", linears.choose(8192, [("nvfp4", 4096, False)], "sm_90a")),
    "head": ("linears", linears.choose(4096, [(BF16, 129280, True)], "sm_90a")),
    "seam": ("mhc_seam", mhc_seam.choose(4096)),
    "pro_seam": ("mhc_seam", mhc_seam.choose(7168)),
    "first": ("mhc_first", mhc_first.choose(4096, 129280)),
    "mhc_head": ("mhc_head", mhc_head.choose(4096)),
    "gate_up": (
        "moe_gate_up",
        moe_gate_up.choose(256, 6, 4096, 2048, "nvfp4", FP8, 10.0, "sm_90a"),
    ),
    "down": ("moe_down", moe_down.choose(256, 6, 2048, 4096, "nvfp4", FP8, "sm_90a")),
}
# What decides a token's bits; of the large tiles of linears, all but how far ahead is loaded.
FIXED = {
    "linears": ("warps_k", "tokens", "split"),
    "mhc_seam": ("blocks", "slices"),
    "mhc_first": ("blocks", "slices"),
    "mhc_head": ("blocks", "slices"),
    "moe_gate_up": (),
    "moe_down": ("groups",),
}


def chosen_of(name: str, arch: str = "sm_90a") -> Iterator[tuple[Lookup, Chosen]]:
    kind, params = KERNELS[name]
    for lookup in render(kind, params, arch).tiles:
        for one in lookup.chosen:
            yield lookup, one


@pytest.mark.parametrize("name", KERNELS)
def test_the_tables_tiles_are_legal(name: str) -> None:
    found = [space_of(at.kind).legal(one.table, at.shape) for at, one in chosen_of(name)]
    assert found
    assert set(found) == {None}


@pytest.mark.parametrize("name", KERNELS)
def test_candidates_keep_a_tokens_bits(name: str) -> None:
    tried = 0
    for lookup, one in chosen_of(name):
        space = space_of(lookup.kind)
        for values in space.near(one.values, lookup.shape):
            assert values != one.values
            assert values.keys() == one.values.keys()
            fixed = [key for key in FIXED[lookup.kind] if key in values]
            assert [values[key] for key in fixed] == [one.values[key] for key in fixed]
            if "ahead" in values:
                assert values["rows"] == one.values["rows"]
            tried += space.legal(values, lookup.shape) is None
    assert tried >= 2 or name == "narrow"


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("o", {"stages": 99}, "bytes of shared memory of 232448"),
        ("o", {"stages": 1}, "1 stages"),
        ("q", {"rows": 128, "stages": 2}, "128 rows"),
        ("o", {"depth": 256}, "8 warps along 256 of K"),
        ("o", {"warps_m": 4}, "4 warps along the rows"),
        ("o", {"beside": True}, "of 116224"),
        ("o", {"tokens": 64, "stages": 2, "warps_m": 1, "warps_k": 2}, "no whole warpgroups"),
        ("narrow", {"depth": 256, "stages": 2}, "a row of one piece"),
        ("seam", {"groups": 3}, "3 groups"),
        ("seam", {"blocks": 4, "groups": 4}, "4 groups of 4 blocks"),
        ("seam", {"teams": 8}, "8 clusters at a time"),
        ("seam", {"slices": 3}, "4096 channels do not share out"),
        ("first", {"staged": True}, "only the seam copies ahead"),
        ("gate_up", {"tokens": 12}, "12 tokens at a time"),
        ("gate_up", {"weights": 10**6, "tokens": 32}, "stages fit|leave room for one stage"),
    ],
)
def test_what_is_not_legal(name: str, changes: dict[str, int | bool], reason: str) -> None:
    lookup, one = next(chosen_of(name))
    found = space_of(lookup.kind).legal({**one.values, **changes}, lookup.shape)
    assert found is not None
    assert any(part in found for part in reason.split("|"))


def test_warps_that_copy_ahead_count() -> None:
    shape = {"site": "mhc_seam", "width": 16 * 15 * 32}
    tile = {"blocks": 16, "slices": 1, "groups": 2, "teams": 7}
    legal = space_of("mhc_seam").legal
    assert legal({**tile, "staged": False}, shape) is None
    assert legal({**tile, "staged": True}, shape) == "2 groups of 15 warps"


@pytest.mark.parametrize("arch", ARCHS)
def test_every_target_has_candidates(arch: str) -> None:
    for lookup, one in chosen_of("seam", arch):
        assert any(True for _ in space_of(lookup.kind).near(one.values, lookup.shape))
