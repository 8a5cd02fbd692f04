"""Measured times against floors, from the JSON of scripts/gpu_kernels.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dsv4c.errors import DsvError
from dsv4c.report.measured import measured_view


def result(**changes: Any) -> dict[str, Any]:
    timed = {"case": "k/t1_time", "kernel": "k_8", "bytes": 3e6, "flops": 0.0, "us": 2.0}
    return {**timed, "us_again": 1.5, "baselines": {"torch": 4.0}, "seconds": 1.0, **changes}


def write(folder: Path, *results: dict[str, Any], **changes: Any) -> Path:
    run = {"device": "H100", "torch": "2.11", "copy_rate": 3e12, "results": results, **changes}
    path = folder / "bench.json"
    path.write_text(json.dumps(run))
    return path


def test_floors(tmp_path: Path) -> None:
    memory = result()
    arithmetic = result(case="k/t4096_time", flops=7.9e9)
    other = result(kernel="a_first_by_name")
    checked = {"case": "k/x", "kernel": "k_8", "gates": [{"name": "o", "ok": True, "ratio": 0.5}]}
    view = measured_view(write(tmp_path, other, memory, arithmetic, checked), {"k_8"}, "sm_90a")
    assert (view["untimed"], view["mma_rate"]) == (1, 790e12)
    first, second, third = view["timings"]
    assert (first["us"], first["floor_us"], first["floor"]) == (1.5, pytest.approx(1.0), "memory")
    assert (second["floor_us"], second["floor"]) == (pytest.approx(10.0), "arithmetic")
    assert first["others"] == {"torch": 4.0}
    assert (first["in_plan"], third["in_plan"]) == (True, False)
    assert first["ratio"] is None
    assert measured_view(tmp_path / "bench.json", {}, "sm_100a")["mma_rate"] is None
    write(tmp_path, arithmetic, bf16_rate=395e12)
    (one,) = measured_view(tmp_path / "bench.json", {}, "sm_90a")["timings"]
    assert one["floor_us"] == pytest.approx(20.0)


def test_gates_that_have_no_ratio(tmp_path: Path) -> None:
    gates = [
        {"name": "a", "ok": True, "ratio": 0.25, "row_l2": 0.0},
        {"name": "b", "ok": False, "ratio": float("inf")},
        {"name": "c", "ok": True, "ratio": float("nan")},
    ]
    (one,) = measured_view(write(tmp_path, result(gates=gates)), {}, "sm_90a")["timings"]
    assert (one["ratio"], one["ok"]) == (0.25, False)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{",
        '{"device": 1}',
        '{"device": "x", "torch": "y", "copy_rate": 0, "results": []}',
        '{"device": "x", "torch": "y", "copy_rate": 1, "bf16_rate": -1, "results": []}',
        '{"device": "x", "torch": "y", "copy_rate": 1, "results": [{"case": "c", "kernel": "k", "us": NaN}]}',
    ],
)
def test_what_is_no_result(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bench.json"
    path.write_text(content)
    with pytest.raises(DsvError) as caught:
        measured_view(path, {}, "sm_90a")
    assert caught.value.code == "DSV101"
    assert str(path) in str(caught.value)
