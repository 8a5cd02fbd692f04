"""Compile many kernels: from the cache where it has them, else in worker processes.

The compiler runs in a process of its own (`dsv4c.codegen.worker`): it is never imported here, its
crashes and its threads stay there, and a build that is all cache hits does not pay for its import.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import dsv4c.errors
from dsv4c.codegen.cache import CacheEntry, KernelCache
from dsv4c.codegen.kernel import KernelSource
from dsv4c.codegen.keys import KernelKey, kernel_key
from dsv4c.errors import DsvError
from dsv4c.settings import FROZEN, JOBS

Progress = Callable[[str, str, float], None]
"""Called with (kernel name, `cached` | `compiled` | `failed`, seconds)."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    name: str
    status: str
    seconds: float
    text: str


def build_kernels(
    sources: Sequence[KernelSource],
    *,
    cache: KernelCache | None = None,
    workers: int | None = None,
    frozen: bool | None = None,
    progress: Progress | None = None,
) -> list[CacheEntry]:
    """Compile `sources`, or find them compiled; the entries come in the order of `sources`.

    Args:
        sources: rendered kernels; names must be unique.
        cache: where compiled kernels are kept; the user's cache by default.
        workers: processes that compile at once; by default the setting `DSV4C_JOBS`.
        frozen: a kernel that is not cached is an error; by default the setting `DSV4C_FROZEN`.
        progress: told about each kernel when it is ready.

    Raises:
        DsvError: DSV401 when a kernel does not compile, its compiler dies, or it is missing while
            `frozen`; DSV603 when the cache cannot be written.
    """
    cache = cache or KernelCache()
    report = progress or (lambda name, status, seconds: None)
    assert len({source.name for source in sources}) == len(sources), "kernel names repeat"
    keys = {source.name: kernel_key(source) for source in sources}
    found: dict[str, CacheEntry] = {}
    for name, key in keys.items():
        if (entry := cache.lookup(key)) is not None:
            found[name] = entry
            report(name, "cached", 0.0)
    missing = [source for source in sources if source.name not in found]
    if missing and FROZEN.resolve(frozen).value:
        raise DsvError(
            "DSV401",
            "a kernel is not in the cache and the build is frozen",
            where=", ".join(source.name for source in missing),
            expected=f"compiled kernels in {cache.kernels}",
            hint="compile once without the frozen mode, with the same package versions",
        )
    if missing:
        found |= _compile(missing, keys, cache, workers, report)
    return [found[source.name] for source in sources]


def _compile(
    sources: Sequence[KernelSource],
    keys: dict[str, KernelKey],
    cache: KernelCache,
    workers: int | None,
    report: Progress,
) -> dict[str, CacheEntry]:
    found: dict[str, CacheEntry] = {}
    failed: list[_Outcome] = []
    jobs = [
        {
            "name": source.name,
            "body": source.body,
            "parts": dict(keys[source.name].parts),
            "digest": keys[source.name].digest,
        }
        for source in sources
    ]
    count = JOBS.resolve(workers).value
    for outcome in _outcomes({"root": str(cache.root), "workers": count, "jobs": jobs}):
        report(outcome.name, outcome.status, outcome.seconds)
        entry = cache.lookup(keys[outcome.name]) if outcome.status != "failed" else None
        if entry is None:
            failed.append(outcome)
        else:
            found[outcome.name] = replace(entry, fresh=outcome.status == "compiled")
    if failed:
        first = failed[0]
        others = ", ".join(outcome.name for outcome in failed[1:])
        raise DsvError(
            "DSV401",
            f"kernel {first.name} does not compile" + (f" (nor do {others})" if others else ""),
            where=str(cache.root / "failed" / f"{first.name}.py"),
            found=first.text or "the compiled kernel is not in the cache",
            hint="this is a bug of dsv4c or of the compiler; the source is kept at the path above",
        )
    return found


def _outcomes(order: Mapping[str, object]) -> Iterator[_Outcome]:
    """Run the compile server on `order`; one outcome per job, as they come."""
    command = [sys.executable, "-W", "ignore", "-m", "dsv4c.codegen.worker"]
    with (
        tempfile.TemporaryDirectory(prefix="dsv4c-compile-") as work,
        tempfile.TemporaryFile("w+") as given,
        tempfile.TemporaryFile("w+") as errors,
    ):
        json.dump({**order, "work": work}, given)
        given.seek(0)
        server = subprocess.Popen(
            command,
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=_environment(),
            start_new_session=True,
        )
        assert server.stdout is not None
        try:
            for line in server.stdout:
                yield _Outcome(**json.loads(line))
            if server.wait() != 0:
                errors.seek(0)
                raise DsvError(
                    "DSV401",
                    "the kernel compiler does not run",
                    found="\n".join(errors.read().splitlines()[-12:])
                    or f"exit status {server.returncode}",
                    hint="install nvidia-cutlass-dsl in the version that dsv4c pins",
                )
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()
            server.stdout.close()


def _environment() -> dict[str, str]:
    """The caller's environment without the compiler's own switches, which are not in the key."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("CUTE_DSL_")}
    package_parent = str(Path(dsv4c.errors.__file__).parent.parent)
    paths = [package_parent, kept.get("PYTHONPATH", "")]
    return {**kept, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
