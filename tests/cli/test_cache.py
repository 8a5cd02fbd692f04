"""`dsv4c cache` on a cache of entries that were never compiled."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dsv4c.cli import main
from dsv4c.codegen import keys
from dsv4c.codegen.cache import OBJECT, SOURCE, KernelCache
from dsv4c.codegen.kernel import KernelSource
from dsv4c.codegen.keys import KernelKey, kernel_key
from dsv4c.codegen.lower import kernel_sources
from dsv4c.codegen.resources import Resources
from dsv4c.report.subject import open_subject

EXAMPLE = Path(__file__).parents[2] / "examples" / "tiny-dsv4-nvfp4"


def call(*words: str | Path) -> Result:
    command = ["cache", *map(str, words)]
    return CliRunner().invoke(main, command, prog_name="dsv4c")


def document(*words: str | Path) -> dict[str, Any]:
    result = call(*words, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KernelCache:
    monkeypatch.setenv("DSV4C_CACHE_DIR", str(tmp_path / "cache"))
    return KernelCache()


@pytest.fixture(scope="module")
def sources() -> dict[str, KernelSource]:
    return kernel_sources(open_subject(EXAMPLE, "sm_90a").graph, "sm_90a")


def store(cache: KernelCache, source: KernelSource, **parts: str) -> KernelKey:
    key = kernel_key(source)
    key = replace(key, parts={**key.parts, **parts})
    if parts:
        key = replace(key, digest=hashlib.sha256(repr(parts).encode()).hexdigest())
    files = {SOURCE: source.body.encode(), OBJECT: b"object"}
    cache.store(key, files, Resources(40, 0, 1024), 2.5)
    return key


def first(sources: dict[str, KernelSource]) -> KernelSource:
    return next(iter(sources.values()))


def test_ls(cache: KernelCache, sources: dict[str, KernelSource]) -> None:
    assert call("ls").stdout == f"0 kernels, 0 B, in {cache.root}\n"
    key = store(cache, first(sources))
    made = document("ls")
    assert made["schema"] == "dsv4c.cache.ls/1"
    (entry,) = made["entries"]
    assert (entry["folder"], entry["kernel"], entry["arch"]) == (key.folder, key.name, "sm_90a")
    assert (entry["registers"], entry["seconds"], entry["usable"]) == (40, 2.5, True)
    assert entry["bytes"] == made["bytes"] > len(first(sources).body)
    assert key.folder in call("ls").stdout


def test_why_a_kernel_is_taken_or_was_never_compiled(
    cache: KernelCache, sources: dict[str, KernelSource]
) -> None:
    store(cache, first(sources))
    made = document("why", EXAMPLE, "--target", "sm_90a")
    assert made["schema"] == "dsv4c.cache.why/1"
    status = {one["kernel"]: one["status"] for one in made["kernels"]}
    assert status.pop(first(sources).name) == "cached"
    assert set(status.values()) == {"never"}
    text = call("why", EXAMPLE, first(sources).name, "--target", "sm_90a").stdout
    assert text == f"{first(sources).name}: would be taken from the cache\n"


def test_why_names_the_part_that_differs(
    cache: KernelCache, sources: dict[str, KernelSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = first(sources)
    old = {"nvidia-cutlass-dsl": "4.0.0", "source_sha256": "f" * 64}
    store(cache, replace(source, body=source.body.replace("import", "# then\nimport", 1)), **old)
    newest = store(cache, source, **{"nvidia-cutlass-dsl": "4.7.0"})
    (why,) = document("why", EXAMPLE, source.name, "--target", "sm_90a")["kernels"]
    assert (why["status"], why["nearest"]) == ("changed", newest.folder)
    now = keys.tool_versions()["nvidia-cutlass-dsl"]
    assert why["parts"] == [{"part": "nvidia-cutlass-dsl", "cached": "4.7.0", "now": now}]
    assert why["lines"] == []


def test_why_shows_the_lines_of_a_template_that_changed(
    cache: KernelCache, sources: dict[str, KernelSource]
) -> None:
    source = first(sources)
    older = replace(source, body=source.body + "\nLATER = 1\n")
    store(cache, older)
    text = call("why", EXAMPLE, source.name, "--target", "sm_90a").stdout
    assert "would be compiled: the nearest cached kernel differs" in text
    assert "source_sha256" in text
    assert "  -LATER = 1" in text.splitlines()


def test_why_tells_damage(cache: KernelCache, sources: dict[str, KernelSource]) -> None:
    key = store(cache, first(sources))
    (cache.kernels / key.folder / OBJECT).write_bytes(b"broken")
    (why,) = document("why", EXAMPLE, key.name, "--target", "sm_90a")["kernels"]
    assert why["status"] == "damaged"


def test_why_of_nothing(cache: KernelCache) -> None:
    for words in (("--target", "cpu"), ("soup", "--target", "sm_90a")):
        result = call("why", EXAMPLE, *words)
        assert result.exit_code == 2
        assert result.stderr.startswith("DSV101: there is no such kernel")


def test_prune_keeps_what_can_be_used(cache: KernelCache, sources: dict[str, KernelSource]) -> None:
    kept = store(cache, first(sources))
    store(cache, first(sources), options="--opt-level 2")
    store(cache, first(sources), **{"apache-tvm-ffi": "0.1.0"})
    for name, age in ((".killed.x1", 7200), (".writing.x2", 60)):
        (cache.kernels / name).mkdir()
        moment = time.time() - age
        os.utime(cache.kernels / name, (moment, moment))
    (cache.kernels / "damaged__0").mkdir()
    would = document("prune", "--dry-run")
    reasons = sorted(one["reason"] for one in would["removed"])
    now = keys.tool_versions()["apache-tvm-ffi"]
    assert reasons == [
        f"apache-tvm-ffi 0.1.0, now {now}",
        "damaged",
        "left by a compile that was killed",
        f"options --opt-level 2, now {keys.OPTIONS}",
    ]
    assert (would["left"], len(list(cache.kernels.iterdir()))) == (2, 6)
    removed = [one["folder"] for one in document("prune")["removed"]]
    assert removed == [one["folder"] for one in would["removed"]]
    left = sorted(path.name for path in cache.kernels.iterdir())
    assert left == [".writing.x2", kept.folder]


def test_prune_by_age_and_all(cache: KernelCache, sources: dict[str, KernelSource]) -> None:
    older, newer = (store(cache, source) for source in list(sources.values())[:2])
    days_ago = time.time() - 3 * 86_400
    os.utime(cache.kernels / older.folder, (days_ago, days_ago))
    text = call("prune", "--older-than", "2").stdout
    assert text.splitlines()[0] == f"{older.folder}: asked for"
    assert [path.name for path in cache.kernels.iterdir()] == [newer.folder]
    assert document("prune", "--all")["left"] == 0
    assert cache.lookup(newer) is None
