from __future__ import annotations

from pathlib import Path

import pytest

from dsv4c.bench.peers import compare, library
from dsv4c.bench.peers.compare import LIBRARIES, PEERS
from dsv4c.bench.results import PeerRow, Time
from dsv4c.errors import DsvError


def test_no_folder_says_what_was_not_given() -> None:
    rows = compare.compare(None, Path("none.so"))
    assert [row.peer for row in rows] == list(PEERS)
    notes = [f"not given: {LIBRARIES[name]}" for name in LIBRARIES]
    assert [row.note for row in rows] == [*notes, "not given: a plan"]
    assert all(row.time is None and row.speedup is None for row in rows)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (row,) = compare.compare(tmp_path, tmp_path / "none.so", names=["insert"])
    assert row.note == f"not given: {tmp_path / '_C_stable_libtorch.abi3.so'}"


@pytest.mark.parametrize(
    ("body", "rows"),
    [
        (
            """print('{"peer": "a", "case": "b", "time": {"us": 2.0, "low": 1.0, "high": 3.0}}')""",
            [PeerRow("a", "b", Time(2.0, 1.0, 3.0))],
        ),
        (
            """print('{"peer": "a", "case": "b"}', flush=True); raise SystemExit("broken")""",
            [PeerRow("a", "b"), PeerRow("insert", "", note="ended with 1: broken")],
        ),
        (
            "import time; time.sleep(60)",
            [PeerRow("insert", "", note="stopped after 0.5 s: no message")],
        ),
    ],
)
def test_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, rows: list[PeerRow]
) -> None:
    program = tmp_path / "child.sh"
    program.write_text(f"#!/bin/sh\nexec {compare.sys.executable} -c '{_quoted(body)}'\n")
    program.chmod(0o755)
    (tmp_path / LIBRARIES["insert"]).touch()
    monkeypatch.setattr(compare.sys, "executable", str(program))
    assert compare.compare(tmp_path, tmp_path / "none.so", names=["insert"], limit=0.5) == rows


def test_the_layers_of_a_plan_are_one_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []

    def child(*given: object) -> list[PeerRow]:
        asked.append(given)
        return [PeerRow("torch.compile", "CSA layer")]

    monkeypatch.setattr(compare, "_child", child)
    layers = compare.Layers(tmp_path / "plan", [1, 64], 32768)
    rows = compare.compare(tmp_path, tmp_path / "none.so", layers, names=["layers"], limit=9.0)
    assert rows == [PeerRow("torch.compile", "CSA layer")]
    assert asked == [("layers", (str(tmp_path / "plan"), "1,64", "32768"), 9.0)]


def test_kernels_of_a_plan_come_before_those_that_peers_bring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = library.names("sm_90a")
    plan, brought = tmp_path / "plan.so", tmp_path / library.OURS
    held = {plan: names[:2], brought: names[1:]}

    class Loaded(dict[str, str]):
        def __init__(self, path: Path, wanted: list[str]) -> None:
            for name in wanted:
                if name not in held[path]:
                    raise DsvError("DSV604", "not there", where=str(path), expected=name)
                self[name] = f"{path.name} {name}"

    monkeypatch.setattr("dsv4c.runtime.kernels.KernelLibrary", Loaded)
    plan.touch()
    assert list(library.load(plan, tmp_path)) == names[:2]
    brought.touch()
    found = library.load(plan, tmp_path)
    assert {str(one).split()[0] for name, one in found.items() if name in names[:2]} == {"plan.so"}
    assert sorted(found) == sorted(names)


def _quoted(body: str) -> str:
    return body.replace("'", "'\\''")


def test_speedup() -> None:
    assert PeerRow("a", "b", Time(2.0, 1.0, 3.0), Time(3.0, 2.5, 4.0)).speedup == 1.5
