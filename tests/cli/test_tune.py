"""`dsv4c tune`: what it refuses, and what apply prints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import dsv4c
from dsv4c.bench.results import Card, Time
from dsv4c.cli import main
from dsv4c.cli.views import measured_tiles
from dsv4c.codegen.kernels import mhc_seam
from dsv4c.codegen.render import render
from dsv4c.codegen.tuned import decode, entries
from dsv4c.report.kernels import KernelView, TileView
from dsv4c.tune.build import Built
from dsv4c.tune.folder import SCHEMA as FOLDER_SCHEMA
from dsv4c.tune.folder import Manifest, Shape
from dsv4c.tune.results import (
    SCHEMA,
    BucketRow,
    CandidateRow,
    Measured,
    Results,
    encode,
    read_results,
)

PRESENT = render("mhc_seam", mhc_seam.choose(4096), "sm_90a").tiles[0].chosen[0]

SHAPE: Shape = {"site": "mhc_seam", "width": 4096}


def call(*words: str) -> Result:
    return CliRunner().invoke(main, ["tune", *words], prog_name="dsv4c", terminal_width=100)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """One bucket that is won by a fifth at T = 64."""
    base = Time(5.0, 4.9, 5.1)
    quick = Measured(64, Time(4.0, 3.9, 4.1), beside=base)
    fast = CandidateRow("fast", {**PRESENT.table, "teams": 7}, [quick])
    row = BucketRow(
        *("mhc_seam_4096", "mhc_seam", SHAPE, PRESENT.most),
        *(PRESENT.table, PRESENT.table, "table", [Measured(64, base)], [fast]),
    )
    card = Card("NVIDIA H100", "2.11", 50_000_000, 3e12, 7e14, None)
    path = tmp_path / "results.json"
    path.write_bytes(encode(Results(SCHEMA, "0.1.0", "sm_90a", "synthetic", card, 4095, [row])))
    return path


@pytest.mark.parametrize("name", ["build", "measure", "apply"])
def test_help(name: str, golden: Callable[[str, str], None]) -> None:
    result = call(name, "--help")
    assert result.exit_code == 0
    golden(f"cli/tune_{name}.txt", result.stdout)


def test_apply(results: Path, tmp_path: Path) -> None:
    result = call("apply", str(results), "--into", str(tmp_path / "data"), "--dry-run")
    assert result.exit_code == 0
    assert "64: 4.00 of 5.00" in result.stdout
    assert result.stdout.endswith("\n1 tile would be kept\n")
    assert not (tmp_path / "data").exists()
    result = call("apply", str(results), "--into", str(tmp_path / "data"))
    assert result.stdout.endswith("\n1 tile kept\n")
    read = json.loads((tmp_path / "data" / "mhc_seam.json").read_text())
    assert read["tiles"][0]["card"] == "NVIDIA H100"
    assert read["tiles"][0]["times"] == [{"tokens": 64, "us": 4.0, "beaten_us": 5.0}]


def test_the_page_shows_what_apply_prints() -> None:
    docs = Path(__file__).parents[2] / "docs"
    result = call("apply", str(docs / "perf" / "tune_pro.json"), "--dry-run")
    assert result.exit_code == 0
    assert f"```text\n{result.stdout}```\n" in (docs / "tuning.md").read_text(encoding="utf-8")


def test_what_that_run_won_is_kept(tmp_path: Path) -> None:
    raw = Path(__file__).parents[2] / "docs" / "perf" / "tune_pro.json"
    assert call("apply", str(raw), "--into", str(tmp_path)).exit_code == 0
    won = decode((tmp_path / "linears.json").read_bytes(), "linears")
    assert won
    assert all(one in entries("linears") for one in won)


def test_apply_as_json(results: Path, tmp_path: Path) -> None:
    result = call("apply", str(results), "--into", str(tmp_path), "--json", "--dry-run")
    read = json.loads(result.stdout)
    assert read["schema"] == "dsv4c.tune.apply/1"
    assert (read["card"], read["tiles"][0]["tile"]["teams"]) == ("NVIDIA H100", 7)


def test_documents_have_the_schema_of_their_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, results: Path
) -> None:
    read = read_results(results)
    made = Manifest(
        *(FOLDER_SCHEMA, "0.1.0", "sm_90a", {}, "synthetic", 4095, 512, [], "library.so", True, {}),
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dsv4c.tune.build.build_folder", lambda *given: Built(made, ["a_t8_1"]))
    monkeypatch.setattr("dsv4c.tune.measure.measure_folder", lambda *given: read)
    built = json.loads(call("build", "flash", "-o", "folder", "--json").stdout)
    assert (built["schema"], built["refused"]) == ("dsv4c.tune.build/1", ["a_t8_1"])
    assert (built["folder"], built["chunk"]) == ("folder", 512)
    measured = json.loads(call("measure", "folder", "-o", "out.json", "--json").stdout)
    assert (measured["schema"], measured["card"]["name"]) == ("dsv4c.tune.measure/1", "NVIDIA H100")
    assert read_results(tmp_path / "out.json") == read


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("build", "flash"), 2, "Missing option '-o' / '--out'"),
        (("build", "flash", "-o", "x", "--kinds", "linear"), 2, "'linear' is none of linears, "),
        (("build", "flash", "-o", "x", "--tokens", "0"), 2, "is not a list of positive numbers"),
        (("build", "flash", "-o", "x", "--kernel", "nothing*"), 2, "DSV101: no kernel of the plan"),
        (("build", "nothing.json", "-o", "x"), 3, "DSV201: there is no such configuration"),
        (
            ("build", "{model}", "-o", "{model}", "--layers", "0"),
            2,
            "DSV102: the output path exists",
        ),
        (("build", "{plan}", "-o", "x", "--seed", "1"), 2, "--seed goes with a CONFIG only"),
        (("build", "{plan}", "-o", "x"), 2, "DSV101: no kernel of the plan has tiles to try"),
        (("measure", "nothing", "-o", "x"), 3, "DSV231: there is no tuning folder here"),
        (("measure", "nothing", "-o", "absent/x"), 7, "DSV603: the file cannot be written"),
        (("measure", "nothing", "-o", "x", "--limit", "nan"), 2, "is not a valid integer"),
        (("measure", "{plan}", "-o", "x"), 3, "DSV233: the tuning folder was made by another"),
        (("apply", "nothing"), 2, "DSV101: the measured tiles cannot be read"),
        (("apply", "{results}", "--into", "{results}"), 2, "is a file"),
    ],
)
def test_refuses(
    words: tuple[str, ...],
    code: int,
    text: str,
    results: Path,
    model_and_plan: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    model, plan = model_and_plan
    paths = {"model": model, "plan": plan, "results": results}
    # Rendering is enough to know that there is nothing to try.
    if words[1] == "flash":
        made = dsv4c.load_plan(plan).manifest
        monkeypatch.setattr("dsv4c.cli.tune._compiled", lambda *given: made)
    result = call(*(word.format(**paths) for word in words))
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert text in result.stderr


@pytest.fixture(scope="module")
def model_and_plan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    import small

    folder = tmp_path_factory.mktemp("small")
    model = small.write_small(folder / "model")
    dsv4c.compile(model, folder / "plan")
    return model, folder / "plan"


def test_inspect_shows_measured_tiles_and_no_others(capsys: pytest.CaptureFixture[str]) -> None:
    tiles: list[TileView] = [
        {"kind": "linears", "most": 8, "values": {"rows": 16}, "origin": "measured on CARD"},
        {"kind": "linears", "most": 0, "values": {"rows": 32}, "origin": "table"},
    ]
    view: KernelView = {
        "name": "linears_a",
        "nodes": 1,
        "layers": [0],
        "registers": 1,
        "spills": 0,
        "smem": 0,
        "tiles": tiles,
    }
    measured_tiles([view])
    assert capsys.readouterr().out.splitlines()[1:] == [
        "measured tiles",
        "kernel     kind     up to T  tile     from",
        "linears_a  linears  8        rows=16  measured on CARD",
    ]
    measured_tiles([{**view, "tiles": tiles[1:]}])
    assert capsys.readouterr().out == ""
