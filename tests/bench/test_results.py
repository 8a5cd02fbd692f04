"""Documents of runs: written, read again, and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dsv4c.bench.compare import compared
from dsv4c.bench.results import Bench, Card, encode, read_bench
from dsv4c.errors import DsvError


def test_floors() -> None:
    """240 MB take 80 us at 3 TB/s; 75 GFLOP take 100 us at 750 TFLOP/s."""
    card = Card("H100", "2.11", 50_000_000, 3.0e12, 750e12, None)
    assert card.floor_us(240e6, 1e9) == pytest.approx(80.0)
    assert card.floor_us(240e6, 75e9) == pytest.approx(100.0)
    assert (card.bound(240e6, 1e9), card.bound(240e6, 75e9)) == ("memory", "arithmetic")


def test_a_run_is_read_as_it_was_written(run: Bench, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(encode(run, compared(run, run)))
    read = read_bench(path)
    assert (read.card, read.steps, read.peers) == (run.card, run.steps, run.peers)
    assert read.steps[0].kernels[0].share == pytest.approx(10 / 12)
    assert read.steps[0].layers[0].ratio == pytest.approx(90 / 70)
    document = json.loads(path.read_text())
    assert document["schema"] == "dsv4c.bench/1"
    assert document["changes"][0] == {
        "what": "copy",
        "unit": "TB/s",
        "old": 3.0,
        "new": 3.0,
        "ratio": 1.0,
    }


def changed(document: dict[str, Any], *path: str | int, value: object) -> str:
    place: Any = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        (("schema",), "dsv4c.bench/9", "schema 'dsv4c.bench/9'"),
        (("card", "copy"), 0.0, "card.copy is 0.0"),
        (("card", "fp8"), -1.0, "card.fp8 is -1.0"),
        (("steps", 1, "kernels", 0, "time", "us"), 0.0, "the time of linears_a is 0.0"),
        (("steps", 0, "layers", 0, "floor_us"), 0.0, "the floor of layer 2 is 0.0"),
        (("steps", 0, "tokens"), "x", "Expected `int`, got `str`"),
        (("steps", 0, "extra"), 1, "Object contains unknown field `extra`"),
        (("peers", 0, "peer_time", "us"), 0.0, "a time beside FlashMLA is 0.0"),
        (("peers", 0, "ratio"), [], "Expected `float`, got `array`"),
    ],
)
def test_what_is_no_run(
    run: Bench, tmp_path: Path, path: tuple[str | int, ...], value: object, found: str
) -> None:
    file = tmp_path / "old.json"
    file.write_text(changed(json.loads(encode(run)), *path, value=value))
    with pytest.raises(DsvError) as caught:
        read_bench(file)
    assert (caught.value.code, caught.value.where) == ("DSV101", str(file))
    assert caught.value.found.startswith(found)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b'{"schema": NaN}'])
def test_what_is_no_document(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "old.json"
    file.write_bytes(content)
    with pytest.raises(DsvError, match="DSV101: the bench result cannot be read"):
        read_bench(file)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DsvError, match="DSV101"):
        read_bench(tmp_path / "absent.json")
