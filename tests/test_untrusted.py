"""Files of a folder that nobody vouched for: pipes, links, sizes, names, changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dsv4c import untrusted
from dsv4c.errors import DsvError
from dsv4c.untrusted import Stamp, Unreadable, inside, is_plain, open_regular, read_json


def stamp(path: Path) -> Stamp:
    with open_regular(path) as file:
        return Stamp.of(file)


def test_a_stamp_changes_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("12")
    first = stamp(path)
    assert first == stamp(path)
    (tmp_path / "y").write_text("12")
    (tmp_path / "y").replace(path)
    second = stamp(path)
    assert second.inode != first.inode
    os.utime(path, ns=(0, 1))
    assert stamp(path).modified_ns == 1
    os.truncate(path, 1)
    assert stamp(path).size == 1


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("link")
    for name, text in (
        ("fifo", "special file"),
        (".", "special file"),
        ("missing", "No such file"),
        ("link", "symbolic links"),
        ("a\0b", "null"),
    ):
        with pytest.raises(Unreadable, match=text):
            open_regular(tmp_path / name)
    with pytest.raises(Unreadable, match="special file"):
        open_regular(Path("/dev/zero"))


@pytest.mark.parametrize("text", ["", "{", '{"a": 1, "a": 2}', "[" * 100_000, "\x80"])
def test_json_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "x").write_bytes(text.encode("latin-1"))
    with pytest.raises(Unreadable):
        read_json(tmp_path / "x")


def test_json_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_text("[1, 2]")
    assert read_json(tmp_path / "x") == [1, 2]
    monkeypatch.setattr(untrusted, "MAX_JSON_BYTES", 5)
    with pytest.raises(Unreadable, match="6 bytes, more than 5"):
        read_json(tmp_path / "x")


def test_names(tmp_path: Path) -> None:
    assert is_plain("layers.0.attn.wq_a.weight")
    assert not any(map(is_plain, ("", "a\n", "\x1b[31m", "ä", "\ud800", "a\0")))
    for name in ("", "..", "../x", "a/b", "/x", "a\0", "\ud800"):
        with pytest.raises(DsvError, match="DSV211"):
            inside(tmp_path, name)


def test_links(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "cache" / "snapshots" / "abc", tmp_path / "cache" / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    (blobs / "1").write_text("1")
    (tmp_path / "secret").write_text("2")
    links: dict[str, tuple[str, bool]] = {
        "cached": ("../../blobs/1", True),
        "beside": ("cached", True),
        "out": ("../../../secret", False),
        "absolute": (str(tmp_path / "secret"), False),
        "loop": ("loop", False),
        "chain": ("out", False),
    }
    for name, (target, allowed) in links.items():
        (snapshot / name).symlink_to(target)
        check: Callable[[], object] = lambda n=name: inside(snapshot, n)  # noqa: E731
        if allowed:
            assert check() == snapshot / name
    for name, (_, allowed) in links.items():
        if not allowed and name != "loop":
            with pytest.raises(DsvError, match="leads out"):
                inside(snapshot, name)
