"""Making a folder as a whole: in a work folder beside its place, whatever stops the process.

A work folder is locked while its process lives, so that the next run knows what a kill left there,
and removes it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

_WORK = ".dsv4c-part"


@contextmanager
def work_folder(out: Path, check: Callable[[Path], None]) -> Generator[Path]:
    """A new folder beside `out`, which vanishes when the body ends unless it was renamed.

    Args:
        out: what is to be made; its parent is made if need be.
        check: called with `out` before anything is done; raises if it cannot be made.

    Raises:
        OSError: from the disk.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with locked(out.parent):
        check(out)
        _remove_abandoned(out)
        work = beside(out)
        held = _lock(work)
    try:
        yield work
    finally:
        os.close(held)
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Generator[None]:
    """Hold the lock of a folder. Raises OSError."""
    descriptor = _lock(folder)
    try:
        yield
    finally:
        os.close(descriptor)


def beside(out: Path) -> Path:
    """A new, empty folder next to `out`."""
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=_WORK, dir=out.parent))
    work.chmod(0o755)
    return work


def _lock(folder: Path, flags: int = fcntl.LOCK_EX) -> int:
    """A descriptor that holds the folder's lock until it is closed. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, flags)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove_abandoned(out: Path) -> None:
    for path in out.parent.iterdir():
        if path.name.startswith(f".{out.name}.") and path.name.endswith(_WORK):
            try:
                held = _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue  # in use
            shutil.rmtree(path, ignore_errors=True)
            os.close(held)
