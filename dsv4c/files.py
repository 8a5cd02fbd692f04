"""Files: written as a whole or not at all, in a place that is known to be good before."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from dsv4c.errors import DsvError


def require_place(path: Path) -> None:
    """Raise DsvError DSV603 unless a file can be put there: what is written may take minutes."""
    folder = path.parent
    if path.is_dir():
        raise _refused(path, "a folder")
    if not folder.is_dir():
        raise _refused(path, f"{folder} is no folder" if folder.exists() else f"no {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _refused(path, f"no permission to write in {folder}")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, or leave what was there. Raises DsvError DSV603."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise _refused(path, error.strerror or str(error)) from error


def _refused(path: Path, found: str) -> DsvError:
    return DsvError(
        "DSV603",
        "the file cannot be written",
        where=str(path),
        found=found,
        hint="choose another place",
    )
