"""The libraries that scripts/gpu_sanitize.py runs, and the faults that were planted for it."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsv4c.codegen.kernel import KernelSource

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "gpu")]

# What each tool has to find.
FAULTS = {
    "memcheck": ("outside",),
    "racecheck": (
        "race",
        "overtaken",
        "early",
        "refilled",
        "traced_overlap",
        "traced_hasty",
        "traced_crossed",
    ),
    "initcheck": ("unwritten",),
    "synccheck": ("diverged", "unwaited"),
    "late": ("unwaiting",),
}
# Correct kernels, of which nothing may be reported, and such that racecheck cannot follow.
_CORRECT = (
    "none",
    "arrive",
    "mbarrier",
    "rearrive",
    "bulk",
    "traced_pingpong",
    "traced_elected",
    "traced_lanes",
)
_UNCLEAR = ("elected", "pingpong", "lanes")
CORRECT = {tool: ("waiting",) if tool == "late" else _CORRECT for tool in FAULTS}
_ALL = tuple(fault for tool, faults in FAULTS.items() if tool != "late" for fault in faults)
PLANTED = {
    tool: ("waiting", "unwaiting") if tool == "late" else (*_CORRECT, *_UNCLEAR, *_ALL)
    for tool in FAULTS
}
RECORD = "libraries.json"
Sources = dict[str, "list[KernelSource]"]


def build(folder: Path, kinds: Sequence[str]) -> None:
    """Compile the libraries of these kinds, of every one if none is named, and say what they hold."""
    from dsv4c.codegen.build import build_kernels
    from dsv4c.codegen.link import link_library

    kinds = kinds or every_kind()
    found = sources(kinds)
    folder.mkdir(parents=True, exist_ok=True)
    for name, some in found.items():
        if some:
            entries = build_kernels(some, progress=lambda *item: print(*item, flush=True))
            link_library([entry.object for entry in entries], folder / f"lib{name}.so")
    record = {"kinds": list(kinds), "texts": texts(found)}
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def every_kind() -> list[str]:
    """Those that have cases."""
    files = (ROOT / "tests" / "gpu").glob("cases_*.py")
    return sorted(path.stem.removeprefix("cases_") for path in files)


def texts(found: Sources) -> dict[str, dict[str, str]]:
    """What each kernel of each library is compiled from: its text and the compiler, hashed."""
    from dsv4c.codegen.keys import kernel_key

    return {
        library: {source.name: kernel_key(source).folder.rpartition("__")[2] for source in some}
        for library, some in found.items()
    }


def sources(kinds: Sequence[str]) -> Sources:
    """The kernels of each library."""
    from cases_sparse_attention import KIND as SPARSE
    from planted.traced import needs_trace, traced

    from dsv4c.codegen.render import render
    from dsv4c.codegen.tiles.sparse_attention import SPARSE_ATTENTION

    def followed(source: KernelSource) -> KernelSource:
        return replace(source, body=traced(source.kind, source.body))

    def variants(kind: str) -> list[KernelSource]:
        module = importlib.import_module(f"cases_{kind}")
        found = [render(kind, params, "sm_90a") for params in module.variants("sm_90a")]
        return list({source.name: source for source in found}.values())

    kernels = [source for kind in kinds for source in variants(kind)]
    found: Sources = {
        "faults": planted(followed),
        "kernels": kernels,
        "traced": [followed(source) for source in kernels if needs_trace(source.name)],
    }
    if SPARSE in kinds:
        tiles = SPARSE_ATTENTION["sm_90a"]
        SPARSE_ATTENTION["sm_90a"] = replace(tiles, splits=())
        found["unsplit"] = [followed(source) for source in variants(SPARSE)]
        SPARSE_ATTENTION["sm_90a"] = tiles
    return found


def planted(followed: Callable[[KernelSource], KernelSource]) -> list[KernelSource]:
    """A kernel for each fault, some in the form that racecheck can follow."""
    from dsv4c.codegen.kernel import KernelSource

    def source(file: str, fault: str) -> KernelSource:
        text = (ROOT / "tests" / "gpu" / "planted" / file).read_text(encoding="utf-8")
        body = re.sub('FAULT = ".*"', f'FAULT = "{fault}"', text, count=1)
        return KernelSource(f"planted_{fault}", "planted", "sm_90a", "", body, {})

    found = [source("late.py", fault) for fault in ("late", *PLANTED["late"])]
    for fault in PLANTED["racecheck"]:
        one = source("faults.py", fault.removeprefix("traced_"))
        traces = fault.startswith("traced_")
        found.append(replace(followed(one), name=f"planted_{fault}") if traces else one)
    return found
