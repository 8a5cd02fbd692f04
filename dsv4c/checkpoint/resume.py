"""A folder made in steps: it appears whole, and a run that was killed is continued by the next one.

Beside OUT lies .OUT.partial with the folder under construction, `job.json` (what is being made, from
what) and `journal.jsonl` (which steps are done). Another job, or another state of its inputs, starts
from nothing. Only one process works on an output at a time.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from dsv4c.errors import DsvError

_FOLDER, _JOB, _JOURNAL = "folder", "job.json", "journal.jsonl"

Notes = list[float]


@dataclass(frozen=True, slots=True)
class Work:
    """The folder under construction.

    Attributes:
        folder: where to write; becomes the output.
        done: steps that earlier runs and this one finished -> what they noted.
    """

    folder: Path
    done: dict[str, Notes]

    def commit(self, steps: Mapping[str, Notes]) -> None:
        """Note steps whose files are on the disk already."""
        self.done.update(steps)
        lines = [json.dumps([step, notes]) + "\n" for step, notes in steps.items()]
        with (self.folder.parent / _JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write("".join(lines))


@contextmanager
def resumable_folder(out: Path, job: Mapping[str, object]) -> Generator[Work]:
    """Make `out`: it gets its name when the body ends well.

    After a kill, an interrupt or a full disk the work stays and the next run with the same job goes
    on; after any other error nothing is left.

    Args:
        out: folder to make.
        job: JSON values that say what is made; what earlier runs did counts only if they are equal.

    Raises:
        DsvError: DSV102, `out` exists or is being written by another process; DSV603, the disk.
    """
    if os.path.lexists(out):
        hint = "choose another path, or remove it first"
        raise DsvError("DSV102", "the output path exists", where=str(out), hint=hint)
    partial = out.with_name(f".{out.name}.partial")
    try:
        with _locked(partial, out):
            try:
                yield _open(partial, job)
                (partial / _FOLDER).rename(out)
            except (OSError, KeyboardInterrupt):
                raise
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise DsvError(
            "DSV603",
            "the output cannot be written",
            where=str(error.filename or out),
            found=error.strerror or str(error),
            hint=f"free disk space and run again to go on, or remove {partial}",
        ) from None


@contextmanager
def _locked(partial: Path, out: Path) -> Generator[None]:
    """The working folder, made and held by this process alone; the lock ends with the process."""
    partial.parent.mkdir(parents=True, exist_ok=True)
    while True:
        partial.mkdir(exist_ok=True)
        descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The process that held it before may have finished and removed it.
            if partial.exists() and os.path.samestat(os.fstat(descriptor), partial.stat()):
                yield
                return
        except BlockingIOError:
            message, hint = "another process is writing this output", "wait for it, or stop it"
            raise DsvError("DSV102", message, where=str(out), hint=hint) from None
        finally:
            os.close(descriptor)


def _open(partial: Path, job: Mapping[str, object]) -> Work:
    """What there is of the same job, or a new start."""
    work = Work(partial / _FOLDER, {})
    text = json.dumps(job, indent=1, sort_keys=True)
    if _read(partial / _JOB) == text and work.folder.is_dir():
        for line in _read(partial / _JOURNAL).splitlines():
            try:
                step, notes = cast(tuple[str, Notes], json.loads(line))
            except ValueError:
                break  # The process was killed while it wrote this line.
            work.done[step] = notes
        _rewrite(partial / _JOURNAL, work.done)
        return work
    for name in (_JOB, _JOURNAL):
        (partial / name).unlink(missing_ok=True)
    if work.folder.exists():
        shutil.rmtree(work.folder)
    work.folder.mkdir()
    (partial / _JOB).write_text(text, encoding="utf-8")
    return work


def _rewrite(journal: Path, done: Mapping[str, Notes]) -> None:
    """Cut a torn line off."""
    new = journal.with_suffix(".new")
    new.write_text("".join(json.dumps([s, n]) + "\n" for s, n in done.items()), encoding="utf-8")
    new.replace(journal)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
