"""A tuning folder: which tiles may be faster, compiled without a GPU."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import cast

import dsv4c
from dsv4c.codegen import kernels as families
from dsv4c.codegen.build import build_kernels
from dsv4c.codegen.cache import CacheEntry, KernelCache
from dsv4c.codegen.kernel import KernelParams, KernelSource
from dsv4c.codegen.keys import kernel_key, tool_versions
from dsv4c.codegen.link import link_library
from dsv4c.codegen.render import Variant, render
from dsv4c.codegen.spaces import MODULES, WHOLE, space_of
from dsv4c.codegen.tuned import Chosen, Lookup, Tile, Values
from dsv4c.errors import DsvError
from dsv4c.plan import manifest as plans
from dsv4c.plan.files import MANIFEST, replaced_folder, sha256
from dsv4c.tune.folder import LIBRARY, PLAN, SCHEMA, WHAT, Bucket, Candidate, Manifest, encode
from dsv4c.tune.jobs import MOST_SEQUENCES, rows_of

Progress = Callable[[str, int, int], None]
_T_OF_ANY = 1 << 30


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to try.

    Attributes:
        tokens: T that are measured, in steps of that many tokens: above 256 whole chunks.
        context: tokens that each sequence holds before.
        kinds: of kernels; every kind that has candidates if empty.
        kernels: globs of their names; every one if empty.
        most: candidates of a tile.
    """

    tokens: Sequence[int] = (1, 8, 64)
    context: int = 4095
    kinds: Sequence[str] = ()
    kernels: Sequence[str] = ()
    most: int = 6


@dataclass(frozen=True, slots=True)
class Built:
    """What was made, and candidates that the compiler refused, by name."""

    manifest: Manifest
    refused: list[str]


@dataclass(frozen=True, slots=True)
class _Bucket:
    """A bucket whose candidates are rendered."""

    kernel: plans.Kernel
    lookup: Lookup
    present: Chosen
    tokens: list[int]
    candidates: list[tuple[Values, KernelSource]]


def build_folder(
    out: Path,
    make_plan: Callable[[Path], plans.Manifest],
    wanted: Wanted,
    report: Progress | None = None,
) -> Built:
    """Write a tuning folder; an earlier one there is replaced when the new one is whole.

    Args:
        out: the folder.
        make_plan: makes the plan at a path of the folder, or leaves it empty for a plan elsewhere.
        wanted: what to try.
        report: called with (phase, done, total).

    Raises:
        DsvError: DSV101, nothing to try, or steps that the plan cannot make; DSV102, `out`; DSV233, a
            plan whose kernels are of another version; DSV40x, no candidate compiles; DSV603, the
            disk; as `make_plan`.
    """
    with replaced_folder(out, WHAT) as work:
        made = make_plan(work / PLAN)
        buckets = list(_buckets(made, wanted))
        if not buckets:
            kinds = ", ".join(sorted({kernel.kind for kernel in made.kernels}))
            hint = "see --kinds, --kernel and --tokens" if kinds else "compile it for a GPU"
            raise DsvError(
                "DSV101",
                "no kernel of the plan has tiles to try",
                expected=f"kernels of {', '.join(MODULES)}",
                found=kinds or f"no kernels: the plan is for {made.target}",
                hint=hint,
            )
        _require_steps(made, wanted)
        sources = {one.name: one for bucket in buckets for _, one in bucket.candidates}
        entries = _compile(list(sources.values()), report)
        link_library([entry.object for entry in entries.values()], work / LIBRARY)
        own = (work / PLAN / MANIFEST).is_file()
        files = {LIBRARY: sha256(work / LIBRARY)}
        files |= {f"{PLAN}/{MANIFEST}": sha256(work / PLAN / MANIFEST)} if own else {}
        found = Manifest(
            *(SCHEMA, dsv4c.__version__, made.target, tool_versions(), made.model.name),
            *(wanted.context, made.options.chunk),
            [one for one in (_entry(bucket, entries) for bucket in buckets) if one.candidates],
            *(LIBRARY, own, files),
        )
        (work / MANIFEST).write_bytes(encode(found))
    return Built(found, sorted(sources.keys() - entries.keys()))


def _require_steps(made: plans.Manifest, wanted: Wanted) -> None:
    """Raise DsvError DSV101 unless the plan can make every step of `wanted`."""
    chunk, most = made.options.chunk, made.model.max_position_embeddings
    for tokens in wanted.tokens:
        sequences, each = rows_of(tokens, chunk)
        if sequences * each != tokens:
            raise DsvError(
                "DSV101",
                "the tokens of a step are no whole number of chunks",
                expected=f"at most {max(chunk, MOST_SEQUENCES)} tokens, or a multiple of {chunk}",
                found=str(tokens),
            )
        # The session has room for the token after the step.
        if wanted.context + each + 1 > most:
            raise DsvError(
                "DSV101",
                "the step is beyond the model's context",
                expected=f"at most {most} tokens",
                found=f"{wanted.context} before a step, {each} in it, one after it",
                hint="name a smaller --context",
            )


def _buckets(made: plans.Manifest, wanted: Wanted) -> Iterator[_Bucket]:
    for kernel in made.kernels:
        if wanted.kinds and kernel.kind not in wanted.kinds:
            continue
        named = [fnmatchcase(kernel.name, glob) for glob in wanted.kernels]
        if kernel.hand_edited or not (any(named) or not named):
            continue
        params = params_of(kernel)
        source = render(kernel.kind, params, kernel.arch)
        if (source.name, kernel_key(source).folder) != (kernel.name, kernel.cache_key):
            raise DsvError(
                "DSV233",
                "a kernel of the plan is not what this version of dsv4c makes",
                where=kernel.name,
                expected=kernel.cache_key,
                found=kernel_key(source).folder,
                hint="compile the plan again",
            )
        for lookup in source.tiles:
            for at, present in enumerate(lookup.chosen):
                tokens = _tokens_of(lookup, at, wanted.tokens)
                if tokens and (tried := _candidates(kernel, params, lookup, at, wanted.most)):
                    yield _Bucket(kernel, lookup, present, tokens, tried)


def params_of(kernel: plans.Kernel) -> KernelParams:
    """The parameters that a kernel of a plan was rendered with.

    Raises:
        DsvError: DSV233, a kind of kernel or parameters that this version does not have.
    """
    if kernel.kind not in families.MODULES:
        raise DsvError(
            "DSV233",
            "a kernel of the plan is of a kind that this version of dsv4c does not know",
            where=kernel.name,
            expected=", ".join(families.MODULES),
            found=kernel.kind,
            hint="compile the plan again",
        )
    params = importlib.import_module(families.MODULES[kernel.kind]).Params
    names = {field.name for field in fields(params)}
    if names != kernel.params.keys():
        raise DsvError(
            "DSV233",
            "a kernel of the plan has other parameters than this version of dsv4c knows",
            where=kernel.name,
            expected=", ".join(sorted(names)),
            found=", ".join(sorted(kernel.params)),
            hint="compile the plan again",
        )
    return cast(KernelParams, params(**kernel.params))


def _tokens_of(lookup: Lookup, at: int, tokens: Sequence[int]) -> list[int]:
    """Those T that the tile number `at` is for."""
    limits = [one.most or _T_OF_ANY for one in lookup.chosen]
    least = limits[at - 1] if at else 0
    return [count for count in sorted(set(tokens)) if least < count <= limits[at]]


def _candidates(
    kernel: plans.Kernel, params: KernelParams, lookup: Lookup, at: int, most: int
) -> list[tuple[Values, KernelSource]]:
    """At most so many legal tiles that give another text than the present one."""
    space, present = space_of(lookup.kind), lookup.chosen[at]
    tiles = [present.values, present.table, *space.near(present.values, lookup.shape)]
    found: list[tuple[Values, KernelSource]] = []
    seen = set[str]()
    for values in tiles:
        if space.legal(values, lookup.shape) is not None:
            continue
        source = _rendered(kernel, params, lookup, at, values)
        text = source.body.replace(source.name, "")
        # The first is the present tile itself.
        if text not in seen and seen:
            found.append((dict(values), source))
        seen.add(text)
        if len(found) == most:
            break
    return found


def _rendered(
    kernel: plans.Kernel, params: KernelParams, lookup: Lookup, at: int, values: Values
) -> KernelSource:
    """The kernel with one tile only, or with one other tile where a tile depends on its bucket."""
    tiles = [replace(one, **each.values) for one, each in zip(lookup.table, lookup.chosen, strict=True)]  # fmt: skip
    tiles[at] = replace(tiles[at], **values)
    if lookup.kind not in WHOLE:
        tiles = [replace(tiles[at], most=0)]
    text = "_".join(str(int(value)) for value in values.values())
    name = f"{kernel.name}_t{lookup.table[at].most or 'any'}_{text}"
    forced: Mapping[str, Sequence[Tile]] = {lookup.kind: tiles}
    return render(kernel.kind, params, kernel.arch, variant=Variant(name, forced))


def _compile(sources: Sequence[KernelSource], report: Progress | None) -> dict[str, CacheEntry]:
    """Those that compile, by name: a tile may be legal and still not fit the registers."""
    done: list[str] = []

    def built(name: str, status: str, seconds: float) -> None:
        done.append(name)
        if report is not None:
            report("candidates", len(done), len(sources))

    cache = KernelCache()
    try:
        found = build_kernels(sources, cache=cache, progress=built)
    except DsvError as error:
        kept = [cache.lookup(kernel_key(source)) for source in sources]
        found = [one for one in kept if one is not None]
        if error.code != "DSV401" or not found:
            raise
    return {entry.name: entry for entry in found}


def _entry(bucket: _Bucket, entries: Mapping[str, CacheEntry]) -> Bucket:
    kernel, lookup, present = bucket.kernel, bucket.lookup, bucket.present
    compiled = [
        Candidate(source.name, values, one.registers, one.spills, one.smem)
        for values, source in bucket.candidates
        if source.name in entries
        for one in (entries[source.name].resources,)
    ]
    return Bucket(
        *(kernel.name, kernel.cache_key, lookup.kind, dict(lookup.shape)),
        *(present.most, bucket.tokens, present.values, present.table, present.origin, compiled),
    )
