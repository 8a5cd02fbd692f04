from __future__ import annotations

import pytest

from dsv4c.cli.render import byte_count, layer_list, pairs, table


def test_a_table_for_pipes_is_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    table(("kernel", "nodes", "seconds"), [("attention", 12, 0.5), ("norm", 1234, 10.25)])
    assert capsys.readouterr().out == (
        "kernel     nodes  seconds\n"
        "attention     12    0.500\n"
        "norm       1,234   10.250\n"
    )  # fmt: skip


def test_an_empty_table_is_its_header(capsys: pytest.CaptureFixture[str]) -> None:
    table(("a", "b"), [])
    assert capsys.readouterr().out == "a  b\n"


def test_pairs_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    pairs({"torch": "2.13", "gcc": ""})
    assert capsys.readouterr().out == "torch  2.13\ngcc\n"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1152, "1,152 B"),
        (74_880, "74.9 kB"),
        (31_185_724, "31.2 MB"),
        (1_600_000_000_000, "1.60 TB"),
    ],
)
def test_byte_count(size: int, text: str) -> None:
    assert byte_count(size) == text


@pytest.mark.parametrize(
    ("layers", "text"), [([], ""), ([3], "3"), ([0, 1, 2, 5, 7, 8], "0-2, 5, 7-8")]
)
def test_layer_list(layers: list[int], text: str) -> None:
    assert layer_list(layers) == text
