"""The kernel cache as a person sees it: what is in it, why a kernel is not taken, what can go."""

from __future__ import annotations

import difflib
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

import msgspec

from dsv4c.codegen.cache import META, SOURCE, KernelCache
from dsv4c.codegen.keys import OPTIONS, KernelKey, kernel_key, tool_versions
from dsv4c.codegen.resources import Resources
from dsv4c.errors import DsvError

if TYPE_CHECKING:
    from dsv4c.codegen.kernel import KernelSource
    from dsv4c.report.subject import Subject

SOURCE_PART = "source_sha256"
LINES = 40
DAY = 86_400.0
# A younger work folder may still be written, in seconds.
BEING_WRITTEN = 3600.0


class Meta(msgspec.Struct):
    """meta.json of an entry."""

    schema: int
    key: dict[str, str]
    arch: str
    resources: Resources
    seconds: float
    sha256: dict[str, str]


class EntryView(TypedDict):
    """`usable` entries can be hit by this installation; the reason says why not."""

    folder: str
    kernel: str
    arch: str
    bytes: int
    age_days: float
    seconds: float | None
    registers: int | None
    usable: bool
    reason: str


class CacheView(TypedDict):
    root: str
    entries: list[EntryView]
    bytes: int


class PartView(TypedDict):
    """One part of a key: in the nearest cached entry, and as it would be now."""

    part: str
    cached: str | None
    now: str | None


class WhyView(TypedDict):
    """`cached`: taken from the cache; `changed`: an older one differs; `damaged`; `never` compiled."""

    kernel: str
    status: Literal["cached", "changed", "damaged", "never"]
    folder: str
    nearest: str
    parts: list[PartView]
    lines: list[str]


class WhysView(TypedDict):
    root: str
    kernels: list[WhyView]


class PruneView(TypedDict):
    root: str
    removed: list[EntryView]
    bytes: int
    left: int


def cache_view(cache: KernelCache) -> CacheView:
    """Every entry, largest first."""
    entries = sorted(map(_entry, _folders(cache)), key=lambda one: -one["bytes"])
    return {"root": str(cache.root), "entries": entries, "bytes": sum(e["bytes"] for e in entries)}


def why_view(cache: KernelCache, subject: Subject, kernel: str | None) -> WhysView:
    """For each kernel that a plan or checkpoint needs: whether it is cached, else what differs.

    Args:
        cache: looked into.
        subject: lowered for a GPU.
        kernel: only this one.

    Raises:
        DsvError: DSV101 if the subject has no kernels, or none of that name.
    """
    from dsv4c.codegen.lower import kernel_sources

    sources = kernel_sources(subject.graph, subject.target) if subject.target != "cpu" else {}
    if not sources or (kernel is not None and kernel not in sources):
        near = difflib.get_close_matches(kernel or "", list(sources), 1)
        raise DsvError(
            "DSV101",
            "there is no such kernel",
            where=str(subject.path),
            expected=", ".join(sources) or "a plan or a --target of a GPU",
            found=kernel or f"the target {subject.target}, which has no kernels",
            hint=f"did you mean {near[0]}?" if near else "",
        )
    chosen = [source for name, source in sources.items() if kernel in (None, name)]
    return {"root": str(cache.root), "kernels": [_why(cache, source) for source in chosen]}


def prune(cache: KernelCache, everything: bool, days: float | None, dry: bool) -> PruneView:
    """Remove entries that this installation cannot use.

    Args:
        cache: to be pruned.
        everything: remove every entry.
        days: remove older ones too.
        dry: only say which.
    """
    entries = cache_view(cache)["entries"]
    removed = [
        one
        for one in entries
        if everything or not one["usable"] or (days is not None and one["age_days"] > days)
    ]
    for one in removed if not dry else ():
        shutil.rmtree(cache.kernels / one["folder"], ignore_errors=True)
    freed = sum(one["bytes"] for one in removed)
    left = len(entries) - len(removed)
    return {"root": str(cache.root), "removed": removed, "bytes": freed, "left": left}


def _folders(cache: KernelCache) -> list[Path]:
    return sorted(cache.kernels.iterdir()) if cache.kernels.is_dir() else []


def _meta(folder: Path) -> Meta | None:
    try:
        return msgspec.json.decode((folder / META).read_bytes(), type=Meta)
    except (OSError, msgspec.MsgspecError):
        return None


def _entry(folder: Path) -> EntryView:
    meta = _meta(folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    reason = _unusable(folder, meta)
    return {
        "folder": folder.name,
        "kernel": meta.key["name"] if meta else folder.name.partition("__")[0],
        "arch": meta.arch if meta else "",
        "bytes": sum(path.stat().st_size for path in files),
        "age_days": (time.time() - folder.stat().st_mtime) / DAY,
        "seconds": meta.seconds if meta else None,
        "registers": meta.resources.registers if meta else None,
        "usable": not reason,
        "reason": reason,
    }


def _unusable(folder: Path, meta: Meta | None) -> str:
    """Why no kernel of this installation can have this entry's key; empty if one can."""
    if folder.name.startswith("."):
        old = time.time() - folder.stat().st_mtime > BEING_WRITTEN
        return "left by a compile that was killed" if old else ""
    if meta is None:
        return "damaged"
    now = {"options": OPTIONS, **tool_versions()}
    for part in {**now, **meta.key}:
        if part not in ("name", "arch", SOURCE_PART) and meta.key.get(part) != now.get(part):
            return f"{part} {meta.key.get(part)}, now {now.get(part)}"
    return ""


def _why(cache: KernelCache, source: KernelSource) -> WhyView:
    key = kernel_key(source)
    found: WhyView = {
        "kernel": source.name,
        "status": "never",
        "folder": key.folder,
        "nearest": "",
        "parts": [],
        "lines": [],
    }
    if cache.lookup(key) is not None:
        return {**found, "status": "cached"}
    if (cache.kernels / key.folder).is_dir():
        return {**found, "status": "damaged", "nearest": key.folder}
    older = [(folder, meta) for folder in _folders(cache) if (meta := _meta(folder)) is not None]
    older = [(folder, meta) for folder, meta in older if meta.key["name"] == source.name]
    if not older:
        return found
    folder, meta = min(older, key=lambda pair: (len(_parts(pair[1], key)), -_made(pair[0])))
    parts = _parts(meta, key)
    changed = any(part["part"] == SOURCE_PART for part in parts)
    lines = _diff(folder / SOURCE, source.body) if changed else []
    return {**found, "status": "changed", "nearest": folder.name, "parts": parts, "lines": lines}


def _made(folder: Path) -> float:
    return folder.stat().st_mtime


def _parts(meta: Meta, key: KernelKey) -> list[PartView]:
    """The parts that differ."""
    names = dict.fromkeys([*key.parts, *meta.key])
    pairs = ((name, meta.key.get(name), key.parts.get(name)) for name in names)
    return [{"part": name, "cached": old, "now": new} for name, old, new in pairs if old != new]


def _diff(cached: Path, now: str) -> list[str]:
    """The first lines in which the rendered text differs from the cached one."""
    try:
        before = cached.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    lines: Iterable[str] = difflib.unified_diff(
        before, now.splitlines(), "cached", "now", lineterm="", n=1
    )
    return [line for _, line in zip(range(LINES), lines, strict=False)]
