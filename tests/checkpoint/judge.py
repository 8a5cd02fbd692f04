"""Whether a broken checkpoint is refused as it should be, or does no harm."""

from __future__ import annotations

import hashlib
import shutil
import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from flavours import TARGETS
from sound import Mutant
from torch import Tensor

from dsv4c.checkpoint.quantize import quantize_checkpoint
from dsv4c.checkpoint.reader import Checkpoint
from dsv4c.errors import DsvError

SECONDS = 10
CODES = ("DSV20", "DSV21", "DSV301")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant.

    Attributes:
        outcome: "refused", "harmless" (the output is that of the sound checkpoint), or "bad".
        text: the message, or what is bad.
        seconds: time until then.
    """

    outcome: Literal["refused", "harmless", "bad"]
    text: str
    seconds: float


class _TooLong(BaseException):
    pass


def judge(flavour: str, sound: Path, digest: str, mutant: Mutant, work: Path) -> Verdict:
    """Quantise a broken copy of a sound checkpoint.

    Args:
        flavour: key of `TARGETS`.
        sound: the checkpoint.
        digest: `digest_of` what it is quantised to.
        mutant: the damage.
        work: a folder to work in, which may hold what an earlier call left.
    """
    shutil.rmtree(work, ignore_errors=True)
    model, out = Path(shutil.copytree(sound, work / "model")), work / "target" / "out"
    out.parent.mkdir()
    if not mutant.after:
        mutant.apply(model)
    started = time.perf_counter()
    try:
        with _limit(SECONDS), _changed_after(mutant, model):
            quantize_checkpoint(model, out, *TARGETS[flavour])
    except DsvError as error:
        problem = _refusal_problem(error, mutant, out.parent)
        return _verdict("refused", str(error), problem, started)
    except _TooLong:
        return _verdict("bad", f"not done in {SECONDS} s", "", started)
    except BaseException as error:
        return _verdict("bad", f"{type(error).__name__}: {error}", "", started)
    problem = "" if digest_of(out) == digest else "accepted, and the output is another one"
    return _verdict("harmless", "equal output", problem, started)


def _verdict(
    outcome: Literal["refused", "harmless", "bad"], text: str, problem: str, started: float
) -> Verdict:
    seconds = time.perf_counter() - started
    return Verdict(
        "bad" if problem else outcome, f"{problem}: {text}" if problem else text, seconds
    )


def _refusal_problem(error: DsvError, mutant: Mutant, target: Path) -> str:
    """What is wrong with a refusal."""
    if left := list(target.iterdir()):
        return f"left behind {left}"
    if not error.code.startswith(CODES):
        return "wrong code"
    if not (error.where and (error.found or error.hint or error.expected)):
        return "no place or no reason"
    unnamed = [name for name in mutant.names if name not in str(error)]
    return f"does not name {unnamed}" if unnamed else ""


def digest_of(folder: Path) -> str:
    """Hash of every file of a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@contextmanager
def _limit(seconds: int) -> Generator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _changed_after(mutant: Mutant, model: Path) -> Generator[None]:
    """Damage the checkpoint when so many reads have begun."""
    read = Checkpoint.read_range
    lock, calls = threading.Lock(), 0

    def counted(
        self: Checkpoint, name: str, first: int, count: int, memory: bytearray | None = None
    ) -> Tensor:
        nonlocal calls
        with lock:
            calls += 1
            if calls == mutant.after:
                mutant.apply(model)
        return read(self, name, first, count, memory)

    Checkpoint.read_range = counted
    try:
        yield
    finally:
        Checkpoint.read_range = read
