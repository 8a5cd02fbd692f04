"""Which candidates win, and what the data files say then."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from dsv4c.bench.results import Card, Time
from dsv4c.codegen.kernels import mhc_seam
from dsv4c.codegen.render import render
from dsv4c.codegen.tuned import Chosen, Entry, Values, decode, encode
from dsv4c.errors import DsvError
from dsv4c.tune.apply import apply_results, verdicts
from dsv4c.tune.folder import Shape
from dsv4c.tune.results import (
    SCHEMA,
    BucketRow,
    CandidateRow,
    Measured,
    Results,
    read_results,
)
from dsv4c.tune.results import encode as encode_results

CARD = Card("NVIDIA H100", "2.11", 50_000_000, 3e12, 7e14, None)
PRESENT: Chosen = render("mhc_seam", mhc_seam.choose(4096), "sm_90a").tiles[0].chosen[0]
SHAPE: Shape = {"site": "mhc_seam", "width": 4096}
Spread = tuple[float, float, float]
BASE: dict[int, Spread] = {1: (5.05, 4.95, 5.15), 64: (8.0, 7.9, 8.1)}


def tile(**changes: int | bool) -> Values:
    return {**PRESENT.table, **changes}


def test_each_is_compared_with_the_present_tile_beside_it() -> None:
    """Clocks fell by a tenth while the second was measured."""
    first, second = (
        candidate(name, {1: one, 64: (8.0, 7.9, 8.1)}, tile(teams=teams))
        for name, one, teams in (("first", (4.9, 4.8, 5.0), 7), ("second", (5.1, 5.0, 5.2), 2))
    )
    slow = Measured(1, second.measured[0].time, beside=Time(5.6, 5.5, 5.7))
    second = msgspec.structs.replace(second, measured=[slow, *second.measured[1:]])
    (one,) = verdicts(results(first, second))
    assert one.best == second
    assert [(each.us, each.beaten_us) for each in one.times] == [(5.1, 5.6), (8.0, 8.0)]


def candidate(name: str, times: dict[int, Spread | str], values: Values) -> CandidateRow:
    measured = [
        Measured(tokens, problem=time)
        if isinstance(time, str)
        else Measured(tokens, Time(*time), beside=Time(*BASE[tokens]))
        for tokens, time in times.items()
    ]
    return CandidateRow(name, values, measured)


def results(*candidates: CandidateRow, present: Values | None = None) -> Results:
    base = [Measured(tokens, Time(*one)) for tokens, one in BASE.items()]
    row = BucketRow(
        *("mhc_seam_4096", "mhc_seam", SHAPE, PRESENT.most),
        *(present or PRESENT.table, PRESENT.table, "table", base, list(candidates)),
    )
    return Results(SCHEMA, "0.1.0", "sm_90a", "synthetic", CARD, 4095, [row])


FAST: dict[int, Spread | str] = {1: (4.5, 4.4, 4.6), 64: (8.0, 7.9, 8.1)}


def test_faster_beyond_the_spread_wins() -> None:
    (found,) = verdicts(results(candidate("fast", FAST, tile(teams=7))))
    assert found.best is not None
    assert found.best.name == "fast"
    assert [(one.tokens, one.us, one.beaten_us) for one in found.times] == [
        (1, 4.5, 5.05),
        (64, 8.0, 8.0),
    ]


@pytest.mark.parametrize(
    ("times", "why"),
    [
        # Its upper quartile lies above the present tile's lower one.
        ({1: (4.9, 4.8, 4.96), 64: (8.0, 7.9, 8.1)}, "no candidate is faster beyond the spread"),
        # Beyond the spread, but by less than 1 %.
        ({1: (5.05, 5.0, 5.1), 64: (7.93, 7.85, 7.89)}, "no candidate is faster beyond the spread"),
        # Slower elsewhere in the bucket.
        ({1: (4.0, 3.9, 4.1), 64: (8.5, 8.4, 8.6)}, "no candidate is faster beyond the spread"),
        ({1: (4.0, 3.9, 4.1), 64: "other bits than the present tile's"}, "no candidate ran"),
    ],
)
def test_what_does_not_win(times: dict[int, Spread | str], why: str, tmp_path: Path) -> None:
    found = results(candidate("slow", times, tile(teams=7)))
    (one,) = apply_results(found, tmp_path)
    assert (one.best, one.why) == (None, why)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("most", "kept"), [(64, True), (128, True), (129, False), (0, False)])
def test_the_upper_half_of_a_bucket_must_be_measured(most: int, kept: bool) -> None:
    found = results(candidate("fast", FAST, tile(teams=7)))
    row = msgspec.structs.replace(found.buckets[0], most=most)
    (one,) = verdicts(msgspec.structs.replace(found, buckets=[row]))
    assert (one.best is not None) == kept
    assert one.why.endswith("the spread" if kept else "measured at T = 64 at most")


def test_of_several_the_one_with_the_largest_gain() -> None:
    more: dict[int, Spread | str] = {1: (4.6, 4.5, 4.7), 64: (7.0, 6.9, 7.1)}
    found = results(candidate("fast", FAST, tile(teams=7)), candidate("more", more, tile(teams=2)))
    (one,) = verdicts(found)
    assert one.best is not None
    assert one.best.name == "more"


def entries_in(folder: Path) -> list[Entry]:
    return list(decode((folder / "mhc_seam.json").read_bytes(), "mhc_seam"))


def test_the_file_is_written_and_its_other_entries_stay(tmp_path: Path) -> None:
    other = Entry("sm_100a", {"site": "mhc_seam", "width": 9}, 0, tile(), tile(), "B200", [])
    (tmp_path / "mhc_seam.json").write_bytes(encode("mhc_seam", [other]))
    apply_results(results(candidate("fast", FAST, tile(teams=7))), tmp_path)
    kept, new = entries_in(tmp_path)
    assert kept == other
    assert (new.arch, new.most, new.card) == ("sm_90a", PRESENT.most, "NVIDIA H100")
    assert (new.tile, new.beats) == (tile(teams=7), PRESENT.table)
    before = (tmp_path / "mhc_seam.json").read_bytes()
    apply_results(results(candidate("fast", FAST, tile(teams=7))), tmp_path)
    assert (tmp_path / "mhc_seam.json").read_bytes() == before


def test_the_tables_own_tile_may_win_back(tmp_path: Path) -> None:
    apply_results(results(candidate("fast", FAST, tile(teams=7))), tmp_path)
    again = results(candidate("table", FAST, tile()), present=tile(teams=7))
    apply_results(again, tmp_path)
    assert not (tmp_path / "mhc_seam.json").exists()


def test_an_entry_against_a_table_that_was_edited_goes(tmp_path: Path) -> None:
    shape = {"site": "mhc_seam", "width": 4096}
    stale = Entry("sm_90a", {**shape}, PRESENT.most, tile(), tile(groups=1), "H100", [])
    (tmp_path / "mhc_seam.json").write_bytes(encode("mhc_seam", [stale]))
    apply_results(results(candidate("slow", {1: "x", 64: "x"}, tile(teams=7))), tmp_path)
    assert not (tmp_path / "mhc_seam.json").exists()


def test_a_kernel_renders_with_what_was_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_results(results(candidate("fast", FAST, tile(teams=7))), tmp_path)
    monkeypatch.setattr("dsv4c.codegen.tuned.entries", lambda kind: tuple(entries_in(tmp_path)))
    source = render("mhc_seam", mhc_seam.choose(4096), "sm_90a")
    assert source.tiles[0].chosen[0].values == tile(teams=7)
    assert source.tiles[0].chosen[0].origin == "measured on NVIDIA H100"


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (tile(teams=99), "99 clusters at a time"),
        ({"teams": 7}, "no field blocks"),
        ({**tile(), "nothing": 1}, "unknown field nothing"),
        ({**tile(), "teams": "7"}, "teams = '7'"),
        (tile(teams=-1), "teams = -1"),
        (tile(blocks=0), "blocks = 0"),
    ],
)
def test_a_tile_that_the_kernel_may_not_have_is_not_taken(
    values: Values, why: str, tmp_path: Path
) -> None:
    bad, good = candidate("bad", FAST, values), candidate("good", {**FAST}, tile(teams=7))
    (alone,) = apply_results(results(bad), tmp_path)
    assert (alone.best, alone.why) == (None, f"faster, but no tile of this version: {why}")
    assert list(tmp_path.iterdir()) == []
    (beside,) = apply_results(results(bad, good), tmp_path)
    assert beside.best == good


@pytest.mark.parametrize("shape", [{}, {"site": "mhc_seam", "width": 1 << 40}, {"width": 0}])
def test_a_shape_that_is_none(shape: Shape, tmp_path: Path) -> None:
    found = results(candidate("fast", FAST, tile(teams=7)))
    row = msgspec.structs.replace(found.buckets[0], shape=shape)
    (one,) = apply_results(msgspec.structs.replace(found, buckets=[row]), tmp_path)
    assert one.best is None
    assert "its shape" in one.why or "do not share out" in one.why


@pytest.mark.parametrize("dry_run", [True, False])
def test_an_unknown_kind_or_a_damaged_file_stops_all_writing(tmp_path: Path, dry_run: bool) -> None:
    found = results(candidate("fast", FAST, tile(teams=7)))
    evil = msgspec.structs.replace(found.buckets[0], kind="../evil")
    both = msgspec.structs.replace(found, buckets=[*found.buckets, evil])
    with pytest.raises(DsvError, match="DSV101: no such kind of tile"):
        apply_results(both, tmp_path / "data", dry_run)
    seam = msgspec.structs.replace(found.buckets[0], kind="mhc_first")
    both = msgspec.structs.replace(found, buckets=[seam, *found.buckets])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mhc_seam.json").write_text("{")
    with pytest.raises(DsvError, match="DSV101: a data file of tiles cannot be read"):
        apply_results(both, tmp_path / "data", dry_run)
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "mhc_seam.json"]


def test_a_candidate_must_be_measured_at_every_t_of_its_bucket(tmp_path: Path) -> None:
    few: dict[int, Spread | str] = {1: (4.5, 4.4, 4.6)}
    (one,) = apply_results(results(candidate("few", few, tile(teams=7))), tmp_path)
    assert one.best is None


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    found = results(candidate("fast", FAST, tile(teams=7)))
    with pytest.raises(DsvError, match="DSV603: the measured tiles cannot be written"):
        apply_results(found, tmp_path / "data")
    (tmp_path / "folder" / "mhc_seam.json").mkdir(parents=True)
    with pytest.raises(DsvError, match="DSV603: the file cannot be written"):
        apply_results(found, tmp_path / "folder")
    assert [one.name for one in (tmp_path / "folder").iterdir()] == ["mhc_seam.json"]


def test_results_round_trip(tmp_path: Path) -> None:
    found = results(candidate("fast", FAST, tile(teams=7)), candidate("lost", {1: "hung"}, tile()))
    path = tmp_path / "results.json"
    path.write_bytes(encode_results(found))
    assert read_results(path) == found


@pytest.mark.parametrize("text", [b"", b"{}", b"\x80\x04N.", b'{"schema": "dsv4c.bench/1"}'])
def test_results_that_are_none(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(text)
    with pytest.raises(DsvError, match="DSV101: the measured tiles cannot be read"):
        read_results(path)


def test_times_that_are_none(tmp_path: Path) -> None:
    found = results(candidate("fast", {1: (0.0, 0.0, 0.0)}, tile(teams=7)))
    path = tmp_path / "results.json"
    path.write_bytes(encode_results(found))
    with pytest.raises(DsvError, match="DSV101: the measured tiles cannot be read"):
        read_results(path)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"card": msgspec.structs.replace(CARD, name="a\nb")}, "DSV101.*\n.*\n.*\n.*name 'a"),
        ({"target": "../sm"}, "DSV302: unknown GPU target"),
    ],
)
def test_names_that_are_none(changes: dict[str, object], text: str, tmp_path: Path) -> None:
    found = results(candidate("fast", FAST, tile(teams=7)))
    path = tmp_path / "results.json"
    path.write_bytes(encode_results(msgspec.structs.replace(found, **changes)))
    with pytest.raises(DsvError, match=text):
        read_results(path)
