from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dsv4c.codegen.cache import META, OBJECT, SOURCE, CacheEntry, KernelCache
from dsv4c.codegen.kernel import KernelSource
from dsv4c.codegen.keys import KernelKey, kernel_key
from dsv4c.codegen.resources import Resources
from dsv4c.errors import DsvError

ROOT = Path(__file__).parents[2]
FILES = {SOURCE: b"text", OBJECT: b"object" * 1000}
USED = Resources(registers=40, spills=8, smem=1024)


@pytest.fixture
def key(make_source: Callable[..., KernelSource]) -> KernelKey:
    return kernel_key(make_source())


def store(cache: KernelCache, key: KernelKey) -> CacheEntry:
    with cache.lock(key):
        return cache.store(key, FILES, USED, 1.23456)


def test_store_then_look_up(tmp_path: Path, key: KernelKey) -> None:
    cache = KernelCache(tmp_path / "cache")
    assert cache.lookup(key) is None
    assert not cache.root.exists()
    store(cache, key)
    entry = cache.lookup(key)
    assert entry is not None
    assert entry.object.read_bytes() == FILES[OBJECT]
    assert (entry.name, entry.arch, entry.resources) == ("reverse_256", "sm_90a", USED)
    assert not entry.fresh
    meta = json.loads((entry.folder / META).read_text(encoding="utf-8"))
    assert meta["key"] == dict(key.parts)
    assert meta["seconds"] == 1.235
    assert [path.name for path in cache.kernels.iterdir()] == [key.folder]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (OBJECT, b"object" * 999),
        (OBJECT, b"objecu" * 1000),
        (OBJECT, None),
        (SOURCE, b"other"),
        (META, b"{"),
        (META, b"[]"),
        (META, b'{"schema": 1}'),
        (META, None),
    ],
)
def test_a_damaged_entry_is_absent_and_is_replaced(
    tmp_path: Path, key: KernelKey, name: str, data: bytes | None
) -> None:
    cache = KernelCache(tmp_path)
    file = store(cache, key).folder / name
    file.unlink() if data is None else file.write_bytes(data)
    assert cache.lookup(key) is None
    store(cache, key)
    assert cache.lookup(key) is not None
    assert [path.name for path in cache.kernels.iterdir()] == [key.folder]


def test_an_entry_of_another_key_in_the_same_folder_is_absent(
    tmp_path: Path, key: KernelKey
) -> None:
    cache = KernelCache(tmp_path)
    store(cache, key)
    parts = {**key.parts, "arch": "sm_100a"}
    assert cache.lookup(KernelKey(key.name, parts, key.digest)) is None


def test_the_folder_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSV4C_CACHE_DIR", str(tmp_path / "own"))
    assert KernelCache().root == tmp_path / "own"
    monkeypatch.delenv("DSV4C_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    assert KernelCache().root == tmp_path / "shared" / "dsv4c"


def test_a_folder_that_cannot_be_written(tmp_path: Path, key: KernelKey) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    cache = KernelCache(tmp_path / "file")
    with pytest.raises(DsvError, match="DSV603") as raised:
        store(cache, key)
    assert str(tmp_path / "file") in raised.value.where
    assert "DSV4C_CACHE_DIR" in raised.value.hint


HOLD = """
import sys, time
from pathlib import Path
from dsv4c.codegen.cache import KernelCache
from dsv4c.codegen.keys import KernelKey

root, name, digest, log, tag = sys.argv[1:]
with KernelCache(Path(root)).lock(KernelKey(name, {}, digest)), open(log, "a") as file:
    print(tag, "in", file=file, flush=True)
    time.sleep(0.2)
    print(tag, "out", file=file)
"""


def test_the_lock_keeps_processes_apart(tmp_path: Path, key: KernelKey) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", HOLD, str(tmp_path), key.name, key.digest, str(log)]
    holders = [subprocess.Popen([*command, tag], cwd=ROOT) for tag in "ab"]
    assert [holder.wait(60) for holder in holders] == [0, 0]
    lines = log.read_text(encoding="utf-8").split("\n")[:4]
    assert lines in ([*_pair("a"), *_pair("b")], [*_pair("b"), *_pair("a")])


def _pair(tag: str) -> tuple[str, str]:
    return f"{tag} in", f"{tag} out"
