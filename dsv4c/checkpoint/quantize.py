"""Making a checkpoint with smaller weights out of another one, in the formats of released ones.

Weights become NVFP4 under ModelOpt's names, MXFP4 as in the official files, FP8 with one power of two
per 128x128 block, or BF16. MXFP4 experts become NVFP4 without loss. All other tensors are copied bit
for bit. Tensors stream through a few threads; a run that was killed is continued by the next.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

import dsv4c
from dsv4c.checkpoint.conversion import Change, Conversion, Unit
from dsv4c.checkpoint.description import check_description
from dsv4c.checkpoint.quantization_config import HF_QUANT_CONFIG, write_configs
from dsv4c.checkpoint.reader import CONFIG, INDEX, Checkpoint
from dsv4c.checkpoint.resume import Work, resumable_folder
from dsv4c.checkpoint.writer import CheckpointWriter
from dsv4c.errors import DsvError
from dsv4c.ir.weight_formats import weight_format
from dsv4c.models.deepseek_v4.config import load_config
from dsv4c.models.deepseek_v4.inventory import logical_weights
from dsv4c.models.deepseek_v4.names import read_ledger
from dsv4c.untrusted import Unreadable, inside, open_regular

Progress = Callable[[str, int, int], None]

EXPERT_FORMATS: Mapping[str, Mapping[str, str]] = {
    "nvfp4": {"expert": "nvfp4"},
    "mxfp4": {"expert": "mxfp4"},
    "fp8": {"expert": "fp8_128"},
    "bf16": {"expert": "bf16"},
}
ATTENTION_FORMATS: Mapping[str, Mapping[str, str]] = {
    "fp8": {"linear": "fp8_128"},
    "fp8-all": {"linear": "fp8_128", "projection": "fp8_128"},
    "nvfp4": {"linear": "nvfp4"},
    "bf16": {"linear": "bf16", "projection": "bf16"},
}
_SIDE_FILES = (".json", ".txt", ".jinja", ".model")
# What a kill can cost: the work since the last commit.
_COMMIT_BYTES, _COMMIT_SECONDS = 256 << 20, 2.0


@dataclass(frozen=True, slots=True)
class ClassReport:
    """What became of one class of weights.

    Attributes:
        name: "routed experts", "attention", "shared experts" or "kept".
        format: the formats it has now; "as it was" for kept weights.
        matrices: matrices (experts counted one by one) or tensors.
        source_bytes: bytes before.
        bytes: bytes after, scales included.
        relative_error: root of the summed squared errors over the root of the summed squares of the
            weights before; 0 where nothing was rounded.
    """

    name: str
    format: str
    matrices: int
    source_bytes: int
    bytes: int
    relative_error: float


@dataclass(frozen=True, slots=True)
class QuantizeReport:
    """Result of `quantize_checkpoint`: one entry per class of weights."""

    classes: tuple[ClassReport, ...]


def quantize_checkpoint(
    src: str | Path,
    dst: str | Path,
    experts: str = "nvfp4",
    attention: str = "fp8",
    progress: Progress | None = None,
    jobs: int | None = None,
) -> QuantizeReport:
    """Write a copy of a checkpoint in other formats, under the official names.

    Args:
        src: checkpoint folder, named by any scheme. Weights may be in any format that holds more than
            the new one; MXFP4 becomes NVFP4 or FP8 too, and anything becomes BF16.
        dst: folder to make. After a kill the next run with the same arguments goes on.
        experts: a key of `EXPERT_FORMATS`, for routed experts.
        attention: a key of `ATTENTION_FORMATS`, for the linears of attention, indexer and shared
            experts. "fp8-all" takes in the linears of compressors and the indexer's weights, which
            released checkpoints keep in BF16; "nvfp4" leaves wo_a as it is.
        progress: called with a phase, units of work done and units in all.
        jobs: threads; by default one per processor.

    Raises:
        DsvError: DSV101, an unknown format; DSV102, `dst` exists or is being written; DSV201 to
            DSV213, the source is not valid; DSV301, a weight cannot take the format; DSV603, the disk.
    """
    chosen = {
        **_choose("experts", experts, EXPERT_FORMATS),
        **_choose("attention", attention, ATTENTION_FORMATS),
    }
    source = Checkpoint.open(src)
    config = load_config(src)
    ledger = read_ledger(config, source)
    check_description(source.path, ledger.weights)
    job = Conversion(source, ledger, logical_weights(config), chosen)
    with resumable_folder(Path(dst), _identity(source, experts, attention)) as work:
        _copy_side_files(source.path, work.folder)
        write_configs(source.path / CONFIG, work.folder, job.formats)
        writer = CheckpointWriter(work.folder, job.headers())
        _run(job, writer, work, progress or (lambda phase, done, total: None), jobs)
        writer.finish()
    return QuantizeReport(tuple(_report(job, work.done)))


def _choose(option: str, value: str, formats: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    if value not in formats:
        known = ", ".join(formats)
        message = f"{option} has no such format"
        raise DsvError("DSV101", message, where=option, expected=known, found=value)
    return formats[value]


def _identity(source: Checkpoint, *options: str) -> dict[str, object]:
    """What a run makes, and from what: equal for runs that may continue one another."""
    headers = hashlib.sha256(repr(sorted(source.tensors.items())).encode()).hexdigest()
    config = hashlib.sha256((source.path / CONFIG).read_bytes()).hexdigest()
    stamps = {name: [s.inode, s.size, s.modified_ns] for name, s in source.stamps.items()}
    path = str(source.path.resolve())
    return {
        "dsv4c": dsv4c.__version__,
        "options": list(options),
        "source": [path, config, headers],
        "files": stamps,
    }


def _copy_side_files(src: Path, dst: Path) -> None:
    """Everything but weights and configs: tokenizer, generation settings, texts."""
    skipped = (CONFIG, INDEX, HF_QUANT_CONFIG)
    for path in sorted(src.iterdir()):
        if path.suffix not in _SIDE_FILES or path.name in skipped:
            continue
        try:
            with open_regular(inside(src, path.name)) as file, (dst / path.name).open("wb") as copy:
                shutil.copyfileobj(file, copy)
        except Unreadable as error:
            message, where = "a file beside the weights cannot be copied", str(path)
            raise DsvError("DSV211", message, where=where, found=str(error)) from None


def _run(
    job: Conversion, writer: CheckpointWriter, work: Work, progress: Progress, jobs: int | None
) -> None:
    """Do every unit that is not done yet."""
    units = job.units()
    if not writer.continued:
        work.done.clear()
    waiting = [unit for unit in units if unit.name not in work.done]
    for unit in units:
        if unit.name in work.done:
            writer.keep(job.tensors(unit))
    finished: dict[str, list[float]] = {}
    done, last = len(units) - len(waiting), time.monotonic()

    def commit() -> None:
        writer.sync()
        work.commit(finished)
        finished.clear()

    for unit, change in _parallel(job, writer, waiting, jobs or len(os.sched_getaffinity(0))):
        finished[unit.name] = [change.matrices, change.error, change.norm]
        done += 1
        progress("quantize", done, len(units))
        if writer.unsynced >= _COMMIT_BYTES or time.monotonic() - last >= _COMMIT_SECONDS:
            commit()
            last = time.monotonic()
    commit()


def _parallel(
    job: Conversion, writer: CheckpointWriter, units: Iterable[Unit], jobs: int
) -> Iterator[tuple[Unit, Change]]:
    """Results of the units as they come; only a few are under way at a time."""
    left = iter(units)
    running: dict[Future[Change], Unit] = {}
    with _workers(jobs) as pool:
        try:
            while True:
                while len(running) < 2 * jobs and (unit := next(left, None)) is not None:
                    running[pool.submit(job.run, unit, writer.write)] = unit
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _workers(jobs: int) -> Generator[ThreadPoolExecutor]:
    """Threads that each use one processor in torch."""
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(jobs, "quantize", torch.set_num_threads, (1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def _report(job: Conversion, done: Mapping[str, list[float]]) -> Iterator[ClassReport]:
    """Sums over the units of each class, in a fixed order."""
    classes = ("routed experts", "attention", "shared experts", "kept")
    by_class = {name: _class(job, name) for name in job.weights}
    sums = {name: [0.0, 0.0, 0.0] for name in classes}
    for unit in job.units():
        if unit.weights:
            total = sums[by_class[unit.weights[0]]]
            total[:] = [a + b for a, b in zip(total, done[unit.name], strict=True)]
    for one in classes:
        names = [name for name, its in by_class.items() if its == one]
        formats = dict.fromkeys(job.formats[name] for name in names)
        matrices, error, norm = sums[one]
        yield ClassReport(
            one,
            "as it was" if one == "kept" else ", ".join(formats),
            int(matrices),
            sum(_nbytes(job, name, job.sources[name].format) for name in names),
            sum(_nbytes(job, name, job.formats[name]) for name in names),
            math.sqrt(error / norm) if norm else 0.0,
        )


def _class(job: Conversion, name: str) -> str:
    role = job.weights[name].role
    if role == "expert":
        return "routed experts"
    if role != "linear" and not job.changes(name):
        return "kept"
    return "shared experts" if ".shared_experts." in name else "attention"


def _nbytes(job: Conversion, name: str, fmt: str) -> int:
    return weight_format(fmt).nbytes(job.weights[name].shape)
