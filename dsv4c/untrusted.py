"""Files of a checkpoint folder, which nobody has vouched for: links, pipes and sizes are checked."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from dsv4c.errors import DsvError

# An index of 145,000 tensors takes 15 MB; anything larger than this is no description of a model.
MAX_JSON_BYTES = 256_000_000


class Unreadable(Exception):
    """A file cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """Identity of a file at one moment; any later write, truncation or replacement changes it."""

    device: int
    inode: int
    size: int
    modified_ns: int

    @staticmethod
    def of(file: BinaryIO) -> Stamp:
        """Stamp of an open file."""
        status = os.fstat(file.fileno())
        return Stamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; never waits for the writer of a pipe.

    Raises:
        Unreadable: it is missing, a folder, a pipe, a device or not permitted.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise Unreadable(getattr(error, "strerror", None) or str(error)) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Unreadable("a folder or a special file")
    return os.fdopen(descriptor, "rb", buffering=0)


def read_json(path: Path) -> object:
    """Content of a JSON file that names each key once.

    Raises:
        Unreadable: it is no regular file, too large, or no such JSON.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_JSON_BYTES:
            raise Unreadable(f"{size:,} bytes, more than {MAX_JSON_BYTES:,}")
        try:
            return json.loads(file.read(), object_pairs_hook=unique_names)
        except (OSError, ValueError, RecursionError) as error:
            raise Unreadable(str(error) or type(error).__name__) from None


def unique_names(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """`object_pairs_hook` of json.loads that refuses a repeated name with a ValueError."""
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise ValueError(f"the name {key} appears twice")
        out[key] = value
    return out


def is_plain(name: str) -> bool:
    """Whether a name from a file is fit for messages and listings: printable ASCII, not empty."""
    return bool(name) and name.isascii() and name.isprintable()


def inside(folder: Path, name: str) -> Path:
    """Path of a file that must lie in the checkpoint folder, or in the cache that it belongs to.

    Raises:
        DsvError: DSV211, the name has folders in it, or a link leads elsewhere.
    """
    if not is_plain(name) or Path(name).name != name:
        message, expected = "a file name is not plain", "a name without folders"
        raise DsvError("DSV211", message, where=str(folder), expected=expected, found=ascii(name))
    root = folder.resolve()
    # A Hugging Face cache keeps NAME/snapshots/REVISION/FILE as a link to NAME/blobs/HASH.
    blobs = root.parent.parent / "blobs" if root.parent.name == "snapshots" else root
    try:
        target = (folder / name).resolve()
    except (OSError, RuntimeError) as error:
        target = Path(str(error))
    if not (target.is_relative_to(root) or target.is_relative_to(blobs)):
        raise DsvError(
            "DSV211",
            "a link leads out of the checkpoint",
            where=str(folder / name),
            expected="a file in the checkpoint folder",
            found=f"a link to {target}",
            hint="copy the file into the folder",
        )
    return folder / name
