"""Files of a plan folder: relative names, hashes, and replacing a folder as a whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from dsv4c.errors import DsvError
from dsv4c.folders import beside, locked, work_folder

MANIFEST = "manifest.json"
# What a folder is, and the schemas of every version of its manifest.
_FAMILIES = {"plan": "dsv4c.plan/", "tuning folder": "dsv4c.tune/"}
# How one comes about.
_MAKERS = {
    "plan": "dsv4c compile MODEL -o PLAN",
    "tuning folder": "dsv4c tune build CONFIG -o FOLDER",
}
_M = TypeVar("_M")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inside(root: Path, name: str, what: str = "plan") -> Path:
    """The file `name` of a plan: a plain relative path to a regular file, no link on the way.

    Args:
        root: the folder.
        name: of the file.
        what: the folder is, for messages.

    Raises:
        DsvError: DSV231 otherwise, or if it does not exist.
    """
    parts = name.split("/")
    if not all(_PART.fullmatch(part) for part in parts):
        raise malformed(root, "a plain relative file name", repr(name), what)
    path = root
    for part in parts:
        path = path / part
        try:
            mode = path.lstat().st_mode
        except OSError as error:
            found = error.strerror or "nothing"
            raise malformed(root, f"the file {name}", found, what) from error
        wanted = stat.S_ISREG(mode) if part == parts[-1] else stat.S_ISDIR(mode)
        if not wanted:
            found = "a link or a special file"
            raise malformed(root, f"{name} to be a regular file", found, what)
    return path


class HashedFile:
    """A new file, written front to back and hashed on the way. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._path, self._file, self._hash = path, path.open("wb", buffering=0), hashlib.sha256()

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        view, done = memoryview(data), 0
        self._hash.update(view)
        try:
            while done < len(view):
                done += self._file.write(view[done:])
        except OSError as error:
            error.filename = str(self._path)
            raise

    def digest(self) -> str:
        """SHA-256 of what was written."""
        return self._hash.hexdigest()


def read_manifest(root: Path, kind: type[_M], schema: str, what: str = "plan") -> _M:
    """The manifest of a folder.

    Args:
        root: the folder.
        kind: of the manifest, a msgspec struct.
        schema: of this version.
        what: the folder is, for messages.

    Raises:
        DsvError: DSV231 (missing, malformed), DSV233 (of another version).
    """
    if not (root / MANIFEST).is_file():
        raise DsvError(
            "DSV231",
            f"there is no {what} here",
            where=str(root),
            expected=f"a folder with {MANIFEST}",
            found="a folder without it" if root.is_dir() else "no folder",
            hint=f"{_MAKERS[what]} makes one",
        )
    path = inside(root, MANIFEST, what)
    text = path.read_bytes()
    try:
        found = msgspec.json.decode(text, type=dict[str, object]).get("schema")
        if found != schema:
            raise DsvError(
                "DSV233",
                f"the {what} was made by another version of dsv4c, or is none",
                where=str(path),
                expected=f"schema {schema}",
                found=str(found),
                hint=_again(what),
            )
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise DsvError(
            "DSV231",
            f"the {what}'s manifest cannot be read",
            where=str(path),
            found=str(error),
            hint=_again(what),
        ) from error


def verify_files(root: Path, files: dict[str, str], what: str = "plan") -> None:
    """Raise DsvError DSV231 or DSV232 unless every file is there with its recorded hash."""
    for name, digest in files.items():
        path = inside(root, name, what)
        found = sha256(path)
        if found != digest:
            raise DsvError(
                "DSV232",
                f"a file of the {what} differs from its recorded hash",
                where=str(path),
                expected=f"sha256 {digest}",
                found=found,
                hint=f"the file was changed or damaged; {_again(what)}",
            )


@contextmanager
def replaced_folder(out: Path, what: str = "plan") -> Generator[Path]:
    """A new folder beside `out` that takes its place when the body ends well, else vanishes.

    A link is followed: what it leads to is replaced. What killed compiles have left there vanishes.

    Args:
        out: the folder.
        what: it is, `plan` or `tuning folder`.

    Raises:
        DsvError: DSV102 if `out` exists and is no such folder; DSV603 if the disk refuses.
    """
    out = out.resolve()
    work = out
    try:
        with work_folder(out, lambda path: _require_replaceable(path, what)) as work:
            yield work
            with locked(out.parent):
                _swap(work, out, what)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise DsvError(
            "DSV603",
            "the disk is full" if full else f"the {what} cannot be written",
            where=str(error.filename or out).replace(str(work), str(out)),
            found=error.strerror or str(error),
            hint="free disk space, or choose another place",
        ) from error


def _require_replaceable(out: Path, what: str) -> None:
    """Raise DsvError DSV102 unless `out` is not there, holds nothing, or is a `what`."""
    if not out.exists():
        return
    try:
        if not any(out.iterdir()):
            return
        head = json.loads((out / MANIFEST).read_bytes())
        known = str(head["schema"]).startswith(_FAMILIES[what])
    except (OSError, ValueError, LookupError, TypeError):
        known = False
    if not known:
        raise DsvError(
            "DSV102",
            f"the output path exists and is not a {what}",
            where=str(out),
            expected=f"a new path, an empty folder or an earlier {what}",
            hint="choose another path",
        )


def _swap(work: Path, out: Path, what: str) -> None:
    _require_replaceable(out, what)
    old: Path | None = None
    if out.exists():
        old = beside(out)
        os.replace(out, old)  # noqa: PTH105  (replaces the empty folder that beside made)
    try:
        os.replace(work, out)  # noqa: PTH105
    except OSError:
        if old is not None:
            os.replace(old, out)  # noqa: PTH105
        raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _again(what: str) -> str:
    return "compile the plan again" if what == "plan" else "make it again"


def malformed(root: Path, expected: str, found: str, what: str) -> DsvError:
    """DSV231: a folder that says of itself what cannot be."""
    return DsvError(
        "DSV231",
        f"the {what} is incomplete or malformed",
        where=str(root),
        expected=expected,
        found=found,
        hint=_again(what),
    )
