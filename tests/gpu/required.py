"""Which lengths and contexts the checks of each kernel have, beside those that they must have.

usage: required.py

Prints a line per kernel that `build_gpu_kernels.py` compiles; exit status 1 if a case is missing.
"""

from __future__ import annotations

import importlib
import itertools
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE)]

import harness  # noqa: E402

from dsv4c.codegen.render import render  # noqa: E402

# How a kernel's launch asks which tile, cluster or number of launches a batch takes.
_BRANCH = re.compile(r"\b(?:tokens|rows) <= (\d+)")
_ROWS = re.compile(r"(?:^|_)[tr](\d+)(?=_|$)")
# Cases that compare runs with one another, not with a reference.
_RELATIVE = re.compile(r"_(batch\d+|repeat|chain|alone|same|pieces|empty)$")


@dataclass(frozen=True)
class Wanted:
    """What the cases of a kernel must have.

    Args:
        name: of the requirement.
        pattern: in the names of the cases that count.
        rows: lengths that they must have.
        but: in the names of cases that do not count.
        kernels: in the names of kernels that must have them.
    """

    name: str
    pattern: str = ""
    rows: tuple[int, ...] = harness.LENGTHS
    but: str = r"$^"
    kernels: str = ""


# Decode has a sequence per row, a chunk has one: kinds that read a sequence's pages or state tell
# them apart. Others only see rows. A sampler and HCA's step have no chunks.
_DEFAULT = (Wanted("rows"),)
WANTED: Mapping[str, tuple[Wanted, ...]] = MappingProxyType(
    {
        "index_scores": (
            Wanted("decode", rows=harness.BATCHES, but="_prefill"),
            Wanted("chunk", "_prefill", harness.CHUNKS),
            Wanted("128k", "_c131072", (1, 8)),
            Wanted("128k chunk", "_c131072_prefill", (129,)),
        ),
        "topk_entries": (
            Wanted("decode", rows=harness.BATCHES, but="_prefill"),
            Wanted("chunk of 128k", "_e33000_prefill", harness.CHUNKS),
        ),
        "latent_compress": (
            Wanted("decode", rows=harness.BATCHES, but="_chunk"),
            Wanted("chunk", "_chunk", harness.CHUNKS),
            Wanted("128k", "_deep", ()),
        ),
        "sparse_attention": (
            *_DEFAULT,
            Wanted("HCA at 128k", "_k1024_c1_", harness.LENGTHS, kernels=r"_c1$"),
        ),
        "sample": (Wanted("rows", rows=harness.BATCHES),),
    }
)


@dataclass(frozen=True)
class Covered:
    """A requirement of one kernel: the lengths of its cases, and those missing."""

    kind: str
    kernel: str
    name: str
    rows: tuple[int, ...]
    missing: tuple[int, ...]
    none: bool

    @property
    def ok(self) -> bool:
        return not self.missing and not self.none


def modules() -> list[ModuleType]:
    """Every family's cases."""
    return [importlib.import_module(path.stem) for path in sorted(HERE.glob("cases_*.py"))]


def without(rows: set[int], text: str) -> tuple[int, ...]:
    """The least length of every branch of a kernel's launch that none of these lengths takes."""
    edges = sorted({0, sys.maxsize, *map(int, _BRANCH.findall(text))})
    return tuple(
        low + 1
        for low, high in itertools.pairwise(edges)
        if not any(low < one <= high for one in rows)
    )


def covered(module: ModuleType) -> Iterator[Covered]:
    """What the cases of a family have of each of its kernels."""
    sources = [render(module.KIND, params, "sm_90a") for params in module.variants("sm_90a")]
    texts = {source.name: source.body for source in sources}
    names: dict[str, list[str]] = {name: [] for name in texts}
    for case in module.cases():
        if case.verify is not None and not _RELATIVE.search(case.name):
            names.setdefault(case.kernel, []).append(case.name)
    for kernel, cases in names.items():
        rows = _lengths(cases)
        missing = without(rows, texts[kernel])
        yield Covered(module.KIND, kernel, "branches", tuple(sorted(rows)), missing, none=not rows)
        for wanted in WANTED.get(module.KIND, _DEFAULT):
            if not re.search(wanted.kernels, kernel):
                continue
            counted = [name for name in cases if re.search(wanted.pattern, name)]
            counted = [name for name in counted if not re.search(wanted.but, name)]
            rows = _lengths(counted)
            missing = tuple(sorted({*wanted.rows} - rows))
            yield Covered(
                module.KIND, kernel, wanted.name, tuple(sorted(rows)), missing, not counted
            )


def _lengths(names: Sequence[str]) -> set[int]:
    return {int(found[-1]) for name in names if (found := _ROWS.findall(name))}


def main() -> int:
    """The table."""
    wrong = 0
    for module in modules():
        for one in covered(module):
            wrong += not one.ok
            rows = " ".join(map(str, one.rows))
            lacks = f"  MISSING {' '.join(map(str, one.missing)) or 'any'}" if not one.ok else ""
            print(f"{one.kernel:70s} {one.name:14s} {rows}{lacks}")
    print(f"{wrong} requirements are not met")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
