"""What is not equal is not timed."""

from __future__ import annotations

import pytest

from dsv4c.bench.peers import side_by_side
from dsv4c.bench.results import PeerRow, Time


def test_only_equal_results_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    times = [Time(2.0, 1.0, 3.0), Time(4.0, 4.0, 5.0)]
    monkeypatch.setattr(side_by_side, "side_by_side", lambda sets, *sides: times)
    row = side_by_side.timed(PeerRow("a", "b", ratio=1.0, peer_ratio=0.5), [None], print, print)
    assert (row.time, row.peer_time, row.speedup) == (*times, 2.0)
    for ratios in ((1.1, 0.5), (0.5, 1.1)):
        row = side_by_side.timed(PeerRow("a", "b", None, None, 9, *ratios), [None], print, print)
        assert (row.time, row.peer_time, row.note) == (None, None, "results differ")


def test_rows_that_share_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    times = [Time(float(n), float(n), float(n)) for n in (1, 2, 4)]
    monkeypatch.setattr(side_by_side, "side_by_side", lambda sets, *sides: times)
    rows = [(PeerRow("a", "x"), 0, 1), (PeerRow("a", "y"), 0, 2), (PeerRow("a", "z"), 1, 2)]
    found = side_by_side.timed_rows(rows, [None], print, print, print)
    assert [(row.case, row.speedup) for row in found] == [("x", 2.0), ("y", 4.0), ("z", 2.0)]
    rows.append((PeerRow("a", "w", ratio=2.0), 0, 1))
    found = side_by_side.timed_rows(rows, [None], print, print, print)
    assert [(row.time, row.note) for row in found] == [(None, "results differ")] * 4
