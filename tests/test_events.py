from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from dsv4c.errors import DsvError
from dsv4c.events import SCHEMA, EventLog, read_events


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_phases_and_the_rest_add_up_to_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    log = EventLog()
    now[0] = 1
    with log.phase("outer"):
        now[0] = 2
        with log.phase("inner"):
            now[0] = 5
        now[0] = 9
    now[0] = 10
    with log.phase("inner"):
        now[0] = 12
    now[0] = 20
    log.close()
    assert log.summary() == [("inner", 5.0), ("outer", 5.0), ("other", 10.0)]
    assert log.seconds == 20.0


def test_without_a_path_the_records_are_kept() -> None:
    log = EventLog()
    log.event("remark", rule="fuse_x")
    assert [record["kind"] for record in log.records] == ["log", "remark"]


def test_every_line_is_on_disk_before_the_log_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "events.jsonl"
    log = EventLog(path)
    log.event("remark", rule="fuse_x", ok=False, dims=[1, 2], text="größer")
    records = read(path)
    assert [record["kind"] for record in records] == ["log", "remark"]
    assert records[0]["schema"] == SCHEMA
    assert records[1] | {"t": 0} == {
        "t": 0,
        "kind": "remark",
        "rule": "fuse_x",
        "ok": False,
        "dims": [1, 2],
        "text": "größer",
    }


def test_records_are_in_order_and_the_summary_closes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log, log.phase("build", kernels=3):
        log.event("compiled", name="k")
    records = read(path)
    assert [record["kind"] for record in records] == [
        "log",
        "phase_begin",
        "compiled",
        "phase_end",
        "summary",
    ]
    times = [float(str(record["t"])) for record in records]
    assert times == sorted(times)
    assert records[1]["kernels"] == 3
    phases = records[-1]["phases"]
    assert isinstance(phases, dict)
    assert sum(phases.values()) == pytest.approx(records[-1]["seconds"], abs=1e-5)


def test_an_exception_is_recorded_and_passes_through(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with pytest.raises(ValueError, match="broken"), EventLog(path) as log, log.phase("build"):
        raise ValueError("broken")
    kinds = {record["kind"]: record for record in read(path)}
    assert kinds["phase_end"]["ok"] is False
    assert kinds["error"]["message"] == "broken"
    assert list(kinds)[-1] == "summary"


def test_an_unwritable_place_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DsvError) as caught:
        EventLog(tmp_path / "file" / "events.jsonl")
    assert caught.value.code == "DSV603"
    assert caught.value.exit_code == 7


def test_reading_drops_an_unfinished_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.event("remark", rule="fuse_x")
    whole = read_events(path)
    assert whole == log.records
    with path.open("a") as file:
        file.write('{"t": 1.0, "kind": "rem')
    assert read_events(path) == whole


@pytest.mark.parametrize("content", [None, "{]}\n{}"])
def test_reading_what_is_no_log(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "events.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DsvError) as caught:
        read_events(path)
    assert caught.value.code == "DSV231"
    assert str(path) in str(caught.value)
