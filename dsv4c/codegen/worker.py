"""The compile server: `python -m dsv4c.codegen.worker`, driven by `dsv4c.codegen.build`.

Reads one order (JSON) from stdin and writes one JSON line per kernel to stdout. It imports the
compiler once and forks a child per kernel: threads cannot compile in parallel, ptxas can crash and
take its process along, and the compiler keeps files under names that two kernels may share, so each
child has a folder of its own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from multiprocessing.context import ForkProcess
from pathlib import Path
from types import ModuleType
from typing import TextIO, cast

from dsv4c.codegen import cache as cache_files
from dsv4c.codegen.cache import KernelCache
from dsv4c.codegen.keys import OPTIONS, KernelKey
from dsv4c.codegen.resources import Resources, read_resources
from dsv4c.codegen.tiles.cards import SMEM

SECONDS_PER_KERNEL = 300.0
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Job:
    """One kernel to compile: its text and its key."""

    name: str
    body: str
    parts: dict[str, str]
    digest: str

    @property
    def key(self) -> KernelKey:
        return KernelKey(self.name, self.parts, self.digest)


def main() -> None:
    """Serve one order."""
    order = json.load(sys.stdin)
    jobs = [Job(**job) for job in order["jobs"]]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # Whatever the compiler prints must not get between the answers.
    os.dup2(2, 1)
    # The compiler uses tvm_ffi, which imports torch where it is installed: 1.5 s for nothing.
    sys.modules["torch"] = cast(ModuleType, None)
    import cutlass.cute  # noqa: F401  # pyright: ignore
    import tvm_ffi  # noqa: F401  # pyright: ignore

    _run(jobs, KernelCache(Path(order["root"])), Path(order["work"]), order["workers"], answers)


def _run(jobs: list[Job], cache: KernelCache, work: Path, workers: int, answers: TextIO) -> None:
    context = multiprocessing.get_context("fork")
    waiting = list(reversed(jobs))
    running: dict[int, tuple[ForkProcess, Job, Path, float]] = {}
    while waiting or running:
        while waiting and len(running) < workers:
            job = waiting.pop()
            folder = work / job.name
            folder.mkdir()
            child = context.Process(target=_child, args=(job, cache, folder))
            child.start()
            running[child.sentinel] = (child, job, folder, time.monotonic())
        multiprocessing.connection.wait(list(running), timeout=1.0)
        for sentinel, (child, job, folder, start) in list(running.items()):
            seconds = time.monotonic() - start
            if child.is_alive() and seconds < SECONDS_PER_KERNEL:
                continue
            child.kill()
            child.join()
            answer = _answer(job, folder, child.exitcode, seconds)
            if answer["status"] == "failed":
                _keep_failed(cache, job)
            print(json.dumps(answer), file=answers, flush=True)
            del running[sentinel]


def _answer(job: Job, folder: Path, exitcode: int | None, seconds: float) -> dict[str, object]:
    """What became of a child, from the file it leaves at its end or from how it ended."""
    try:
        answer = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        if seconds >= SECONDS_PER_KERNEL:
            end = f"the compiler did not finish in {SECONDS_PER_KERNEL:.0f} s"
        elif exitcode is not None and exitcode < 0:
            end = f"the compiler was ended by {signal.Signals(-exitcode).name}"
        else:
            end = f"the compiler ended with status {exitcode}"
        log = folder / "log"
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        answer = {"status": "failed", "text": clean(f"{text}\n{end}")}
    return {"name": job.name, "seconds": round(seconds, 3), "text": "", **answer}


def _keep_failed(cache: KernelCache, job: Job) -> None:
    with contextlib.suppress(OSError):
        (cache.root / "failed").mkdir(parents=True, exist_ok=True)
        (cache.root / "failed" / f"{job.name}.py").write_text(job.body, encoding="utf-8")


def _child(job: Job, cache: KernelCache, folder: Path) -> None:
    with (folder / "log").open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        with cache.lock(job.key):
            if cache.lookup(job.key) is not None:
                answer = {"status": "cached"}
            else:
                start = time.monotonic()
                files, resources = compile_source(job, folder)
                cache.store(job.key, files, resources, time.monotonic() - start)
                answer = {"status": "compiled"}
    except Exception as error:
        answer = {"status": "failed", "text": clean(str(error) or traceback.format_exc())}
    (folder / "answer.tmp").write_text(json.dumps(answer), encoding="utf-8")
    (folder / "answer.tmp").replace(folder / "answer.json")


def compile_source(job: Job, folder: Path) -> tuple[dict[str, bytes], Resources]:
    """Compile one rendered kernel with no GPU; `folder` is private to this call.

    Returns:
        The files of its cache entry by name, and its resources.
    """
    import cutlass.cute as cute  # pyright: ignore

    source = folder / "source.py"
    source.write_text(job.body, encoding="utf-8")
    module = _import(source, f"dsv4c_generated_{job.name}")
    dump = folder / "dump"
    dump.mkdir()
    options = f"{OPTIONS} --gpu-arch {job.parts['arch']} --keep-cubin --keep-ptx --dump-dir {dump}"
    compiled = cute.compile(module.entry, *module.example_args(), options=options)
    cubin = compiled.artifacts.CUBIN
    resources = read_resources(cubin, str(compiled.ir_module))
    if resources.smem > SMEM:
        raise ValueError(f"needs {resources.smem} bytes of shared memory, a block has {SMEM}")
    made = folder / cache_files.OBJECT
    compiled.export_to_c(str(made), function_name=job.name)
    files = {
        cache_files.SOURCE: source.read_bytes(),
        cache_files.OBJECT: made.read_bytes(),
        cache_files.CUBIN: cubin,
    }
    return files, resources


def _import(path: Path, name: str) -> ModuleType:
    """Import a file; the compiler reads the functions' source from it."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def clean(text: str) -> str:
    """Compiler output for people: no colours, no empty lines, the last 40 lines."""
    lines = [line.rstrip() for line in _COLOUR.sub("", text).splitlines()]
    return "\n".join([line for line in lines if line][-40:])


if __name__ == "__main__":
    main()
