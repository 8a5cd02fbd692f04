"""Files of results: whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from dsv4c.errors import DsvError
from dsv4c.files import require_place, write_whole


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(b"a longer one")
    require_place(path)
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "found"),
    [("folder", "a folder"), ("nothing/a", "no "), ("file/a", "is no folder")],
)
def test_a_place_that_is_none(name: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for refuse in (require_place, lambda path: write_whole(path, b"x")):
        with pytest.raises(DsvError, match="DSV603: the file cannot be written") as caught:
            refuse(tmp_path / name)
        assert caught.value.where == str(tmp_path / name)
        if refuse is require_place:
            assert found in caught.value.found
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
