"""Measured tiles: which entry counts, which does not, and what a kernel says of it."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources

import msgspec
import pytest

from dsv4c.codegen import tuned as module
from dsv4c.codegen.kernels import linears, mhc_seam
from dsv4c.codegen.keys import kernel_key
from dsv4c.codegen.render import Variant, render
from dsv4c.codegen.spaces import MODULES, space_of
from dsv4c.codegen.tuned import (
    Entry,
    Lookup,
    Shape,
    Timed,
    Values,
    decode,
    distance,
    encode,
    entries,
    lookups,
    tuned,
    values_of,
)
from dsv4c.errors import DsvError

SHAPE: Shape = {"depth": 4096, "formats": "fp8_128", "rows": (1024,)}
PARAMS = linears.choose(4096, [("fp8_128", 1024, False)], "sm_90a")


def lookup_of(params: linears.Params = PARAMS) -> Lookup:
    return render("linears", params, "sm_90a").tiles[0]


def other(values: Values, shape: Shape = SHAPE) -> Values:
    """A tile that may be tried instead of one."""
    space = space_of("linears")
    return next(one for one in space.near(values, shape) if space.legal(one, shape) is None)


def entry(**changes: object) -> Entry:
    table = lookup_of().chosen[0]
    found = Entry(
        *("sm_90a", {"depth": 4096, "formats": "fp8_128", "rows": (1024,)}, table.most),
        *(other(table.table), table.table, "CARD", [Timed(1, 2.0, 2.5)]),
    )
    return msgspec.structs.replace(found, **changes)


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> list[Entry]:
    """Entries of every kind, whatever the files say."""
    found: list[Entry] = []
    monkeypatch.setattr(module, "entries", lambda kind: tuple(found))
    return found


@pytest.mark.usefixtures("data")
def test_without_data_the_table_stays() -> None:
    found = lookup_of()
    assert {one.origin for one in found.chosen} == {"table"}
    assert [one.values for one in found.chosen] == [values_of(tile) for tile in found.table]
    assert dict(found.shape) == SHAPE


def test_the_very_shape(data: list[Entry]) -> None:
    before = render("linears", PARAMS, "sm_90a")
    data.append(entry())
    after = render("linears", PARAMS, "sm_90a")
    chosen = after.tiles[0].chosen
    assert (chosen[0].origin, chosen[0].values) == ("measured on CARD", data[0].tile)
    assert {one.origin for one in chosen[1:]} == {"table"}
    assert after.name == before.name
    assert after.body != before.body
    assert kernel_key(after).digest != kernel_key(before).digest
    assert f"# Measured tiles: most {data[0].most} (measured on CARD) " in after.header
    assert "Measured tiles" not in before.header


@pytest.mark.parametrize(
    "changes",
    [
        {"arch": "sm_100a"},
        {"most": 7},
        {"beats": {"rows": 1}},
        {"shape": {"depth": 4096, "formats": "bf16", "rows": (1024,)}},
        {"shape": {"depth": 4096, "formats": "fp8_128", "rows": (2048,)}},
        {"shape": {"depth": 4096, "formats": "fp8_128", "rows": (1024, 1024)}},
        {"shape": {"depth": 4096}},
    ],
)
def test_entries_that_do_not_count(data: list[Entry], changes: dict[str, object]) -> None:
    """Another target, bucket or shape; a table's tile that was edited since."""
    data.append(entry(**changes))
    assert {one.origin for one in lookup_of().chosen} == {"table"}


def test_the_nearest_shape_counts_if_no_entry_is_of_the_very_one(data: list[Entry]) -> None:
    near = {"depth": 4096, "formats": "fp8_128", "rows": (1152,)}
    far = {"depth": 4096, "formats": "fp8_128", "rows": (1216,)}
    data += [entry(shape=far, card="FAR"), entry(shape=near, card="NEAR")]
    origin = lookup_of().chosen[0].origin
    assert origin == "measured on NEAR for depth=4096 formats=fp8_128 rows=1152"
    data.append(entry(card="SAME"))
    assert lookup_of().chosen[0].origin == "measured on SAME"


def test_a_near_entry_must_be_legal(data: list[Entry]) -> None:
    near = {"depth": 4096, "formats": "fp8_128", "rows": (1152,)}
    data.append(entry(shape=near, tile={**entry().tile, "stages": 99}))
    assert {one.origin for one in lookup_of().chosen} == {"table"}


@pytest.mark.parametrize("changes", [{"stages": 99}, {"stages": 0}, {"stages": "2"}, {"more": 1}])
def test_an_entry_of_the_very_shape_must_be_legal_too(data: list[Entry], changes: Values) -> None:
    data.append(entry(tile={**entry().tile, **changes}))
    assert {one.origin for one in lookup_of().chosen} == {"table"}


def test_distances() -> None:
    assert distance(SHAPE, {**SHAPE, "rows": [1024]}) == 0  # type: ignore[dict-item]
    assert (
        0
        < distance(SHAPE, {**SHAPE, "rows": (1100,)})
        < distance(SHAPE, {**SHAPE, "rows": (1200,)})
    )
    for other_shape in ({"rows": (1281,)}, {"rows": (1, 2)}, {"formats": "bf16"}, {"depth": 8192}):
        assert distance(SHAPE, {**SHAPE, **other_shape}) == float("inf")


def test_outside_of_a_render_nothing_is_looked_up(data: list[Entry]) -> None:
    data.append(entry())
    tiles = lookup_of().table
    assert tuned("linears", SHAPE, tiles) is tiles


def test_a_variant_has_its_own_name_and_tiles(data: list[Entry]) -> None:
    data.append(entry())
    (tile,) = [one for one in lookup_of().table if one.most == data[0].most]
    forced = replace(tile, **{**values_of(tile), "most": 0, "stages": 2})
    source = render("linears", PARAMS, "sm_90a", variant=Variant("mine", {"linears": (forced,)}))
    assert source.name == "mine"
    assert source.tiles == ()
    assert source.body.count("outs, Tile(") == 1
    assert "LargeTile" not in source.body


def test_a_scope_ends_with_its_body() -> None:
    with lookups("sm_90a") as found:
        mhc_seam.context(mhc_seam.choose(4096))
    mhc_seam.context(mhc_seam.choose(4096))
    assert [one.kind for one in found] == ["mhc_seam"]


def test_a_file_round_trips_sorted() -> None:
    found = [entry(most=64), entry(most=8), entry(most=0), entry(arch="sm_100a")]
    text = encode("linears", found)
    read = decode(text, "linears")
    assert [(one.arch, one.most) for one in read] == [
        ("sm_100a", 8),
        ("sm_90a", 8),
        ("sm_90a", 64),
        ("sm_90a", 0),
    ]
    assert encode("linears", read) == text


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", encode("mhc_seam", ()), b"\x80\x04"])
def test_a_file_that_is_none(text: bytes) -> None:
    with pytest.raises(DsvError, match="DSV101: a data file of tiles cannot be read") as caught:
        decode(text, "linears")
    assert caught.value.where == "tiles/data/linears.json"


def test_the_files_of_the_repository_are_legal_and_of_known_kinds() -> None:
    folder = resources.files("dsv4c.codegen.tiles") / "data"
    files = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    assert {name.removesuffix(".json") for name in files} <= MODULES.keys()
    for kind in (name.removesuffix(".json") for name in files):
        for one in entries(kind):
            assert one.tile.keys() == one.beats.keys()
            assert one.times
            assert all(time.us > 0 for time in one.times)
            assert encode(kind, entries(kind)) == (folder / f"{kind}.json").read_bytes()
