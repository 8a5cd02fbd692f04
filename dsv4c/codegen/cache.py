"""The kernel cache: content-addressed folders, whole or absent, verified on every read.

`<root>/kernels/<name>__<hash12>/` holds source.py, kernel.o, kernel.cubin and meta.json. An entry
is written beside and renamed; a lock file per key keeps two processes from compiling one kernel
twice. An entry that does not match its recorded hashes counts as absent and is replaced.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from dsv4c.codegen.keys import KernelKey
from dsv4c.codegen.resources import Resources
from dsv4c.errors import DsvError
from dsv4c.settings import CACHE_DIR

SOURCE, OBJECT, CUBIN, META = "source.py", "kernel.o", "kernel.cubin", "meta.json"
_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One compiled kernel in the cache.

    Args:
        name: the exported function.
        folder: where its files lie.
        arch: the target.
        resources: registers, spills, shared memory.
        seconds: what compiling it took.
        fresh: it was compiled by the call that returned it.
    """

    name: str
    folder: Path
    arch: str
    resources: Resources
    seconds: float
    fresh: bool = False

    @property
    def object(self) -> Path:
        """The object file that goes into a plan's library."""
        return self.folder / OBJECT


class KernelCache:
    """Compiled kernels by content key.

    Args:
        root: the folder; the setting `DSV4C_CACHE_DIR` when None. Made on the first store.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = CACHE_DIR.resolve(root).value.absolute()
        self.kernels = self.root / "kernels"

    def lookup(self, key: KernelKey) -> CacheEntry | None:
        """The entry of `key`, or None when it is absent, incomplete or does not match its hashes."""
        folder = self.kernels / key.folder
        try:
            meta = json.loads((folder / META).read_text(encoding="utf-8"))
            if meta["schema"] != _SCHEMA or meta["key"] != dict(key.parts):
                return None
            for name, digest in meta["sha256"].items():
                if _sha256(folder / name) != digest:
                    return None
            resources = Resources(**meta["resources"])
            return CacheEntry(key.name, folder, meta["arch"], resources, float(meta["seconds"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def store(
        self,
        key: KernelKey,
        files: Mapping[str, bytes],
        resources: Resources,
        seconds: float,
    ) -> CacheEntry:
        """Keep a compiled kernel; call with `lock(key)` held.

        Raises:
            DsvError: DSV603 when the folder cannot be written.
        """
        meta = {
            "schema": _SCHEMA,
            "key": dict(key.parts),
            "arch": key.parts["arch"],
            "resources": asdict(resources),
            "seconds": round(seconds, 3),
            "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        }
        text = json.dumps(meta, indent=2, sort_keys=True) + "\n"
        target = self.kernels / key.folder
        with _disk_errors(self.root):
            self.kernels.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(prefix=f".{key.folder}.", dir=self.kernels))
            try:
                for name, data in {**files, META: text.encode()}.items():
                    (work / name).write_bytes(data)
                work.chmod(0o755)
                _replace_folder(work, target)
            finally:
                shutil.rmtree(work, ignore_errors=True)
        return CacheEntry(key.name, target, key.parts["arch"], resources, seconds)

    @contextlib.contextmanager
    def lock(self, key: KernelKey) -> Generator[None]:
        """Hold the lock of `key`; the system releases it when the holder dies.

        Raises:
            DsvError: DSV603 when the lock file cannot be made.
        """
        import filelock

        folder = self.root / "locks"
        with contextlib.ExitStack() as stack:
            with _disk_errors(self.root):
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(filelock.FileLock(folder / f"{key.digest[:24]}.lock"))
            yield


def _replace_folder(work: Path, target: Path) -> None:
    """Rename `work` to `target`; what is at `target` (a damaged entry) goes away."""
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        target.replace(old / "old")
        work.replace(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        work.replace(target)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextlib.contextmanager
def _disk_errors(root: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise DsvError(
            "DSV603",
            "the kernel cache cannot be written",
            where=str(root),
            found=error.strerror or str(error),
            hint="free some space, or set DSV4C_CACHE_DIR to another folder",
        ) from error
