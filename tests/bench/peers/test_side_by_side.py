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
