"""`dsv4c report`: its formats, where they go, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dsv4c.cli import main


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, words)], prog_name="dsv4c")


def test_html_goes_to_a_file(plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    result = call(plan, "-o", out)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith(f"wrote {out}, ")
    assert out.read_text("utf-8").startswith("<!doctype html>\n")
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_html_has_a_name_by_default(
    plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(plan).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_other_formats_go_to_stdout(plan: Path, tmp_path: Path) -> None:
    report = json.loads(call(plan, "--format", "json").stdout)
    assert report["schema"] == "dsv4c.report/2"
    assert report["plan"]["target"] == "cpu"
    assert report["measured"] is None
    trace = json.loads(call(plan, "--format", "perfetto").stdout)
    assert trace["otherData"]["schema"] == "dsv4c.trace/1"
    collection = json.loads(call(plan, "--format", "model-explorer").stdout)
    assert list(collection) == ["label", "graphs"]
    dot = call(plan, "--format", "dot", "--layer", "1").stdout
    assert dot.startswith("digraph ")
    assert call(plan, "--format", "dot", "--layer", "1", "-o", tmp_path / "d").stdout == ""
    assert (tmp_path / "d").read_text("utf-8") == dot


def test_a_bench_result_is_in_the_report(plan: Path, tmp_path: Path) -> None:
    case = {"case": "k/t1", "kernel": "k", "us": 2.0, "bytes": 3e6}
    run = {"device": "H100", "torch": "2.11", "copy_rate": 3e12, "results": [case]}
    (tmp_path / "bench.json").write_text(json.dumps(run))
    result = call(plan, "--format", "json", "--bench", tmp_path / "bench.json")
    measured = json.loads(result.stdout)["measured"]
    assert measured["timings"][0]["floor_us"] == 1.0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--layer", "1"), "--layer is for --format dot and model-explorer."),
        (("--format", "dot", "--bench", __file__), "--bench is for --format html and json."),
    ],
)
def test_options_of_other_formats_are_refused(
    plan: Path, words: tuple[str, ...], told: str
) -> None:
    result = call(plan, *words)
    assert result.exit_code == 2
    assert told in result.stderr


def test_what_cannot_be_read_or_written(plan: Path, tmp_path: Path) -> None:
    unwritable = call(plan, "-o", tmp_path / "none" / "r.html")
    assert (unwritable.exit_code, unwritable.stderr[:7]) == (7, "DSV603:")
    no_plan = call(tmp_path, "-o", tmp_path / "r.html")
    assert (no_plan.exit_code, no_plan.stderr[:7]) == (3, "DSV231:")
    (tmp_path / "bench.json").write_text("[")
    no_bench = call(plan, "-o", tmp_path / "r.html", "--bench", tmp_path / "bench.json")
    assert (no_bench.exit_code, no_bench.stderr[:7]) == (2, "DSV101:")
    assert not (tmp_path / "r.html").exists()
