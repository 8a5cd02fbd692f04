"""The Python API of the compiler: `compile` a checkpoint into a plan folder."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import dsv4c
from dsv4c.codegen.build import build_kernels
from dsv4c.codegen.cache import META, SOURCE, CacheEntry, KernelCache
from dsv4c.codegen.kernel import KernelSource
from dsv4c.codegen.link import link_library
from dsv4c.codegen.lower import TARGETS, kernel_sources
from dsv4c.edits import Edits, edited_sources, mark, options_of, read_ir
from dsv4c.errors import DsvError
from dsv4c.events import EventLog
from dsv4c.ir.graph import Graph
from dsv4c.ir.text import show
from dsv4c.models.deepseek_v4.build import BuildOptions, build_graph, check_supported
from dsv4c.passes.base import PassRecord, run_passes
from dsv4c.pipeline import largest_step, pipeline
from dsv4c.plan import manifest
from dsv4c.plan.files import MANIFEST, replaced_folder, sha256
from dsv4c.plan.forms import forms, packed_operands
from dsv4c.plan.plan import Plan
from dsv4c.plan.read import arena_of, schedule_of, states_of
from dsv4c.plan.synthetic import synthetic_entries
from dsv4c.plan.weights import write_weights
from dsv4c.report.passes import record_pass
from dsv4c.source import Source, read_source

Progress = Callable[[str, int, int], None]
LIBRARY = "kernels/library.so"
_DTYPES = {"bfloat16": "bf16", "float32": "f32"}
_CACHES = ("fp8", "bf16", "f32")
_TOOLS = ("torch", "nvidia-cutlass-dsl", "apache-tvm-ffi", "jinja2", "safetensors")


def compile(
    model: str | Path,
    out: str | Path,
    target: str = "cpu",
    kv_cache: str = "fp8",
    dtype: str = "bfloat16",
    progress: Progress | None = None,
    *,
    jobs: int | None = None,
    frozen: bool | None = None,
    edits: Edits | None = None,
) -> Plan:
    """Compile a checkpoint into a plan folder. Needs no GPU for any target.

    Args:
        model: folder of the checkpoint: config.json and safetensors, official, ModelOpt or
            transformers names.
        out: folder of the plan; an earlier plan there is replaced when the new one is whole.
        target: `cpu`, `sm_90a` or `sm_100a`.
        kv_cache: format of cached entries, `fp8` (584 bytes each), `bf16` or `f32`.
        dtype: activations between nodes, `bfloat16` or `float32`.
        progress: called with (phase, done, total).
        jobs: kernels compiled at once; the setting DSV4C_JOBS by default.
        frozen: fail instead of compiling a kernel that the cache lacks; DSV4C_FROZEN by default.
        edits: an IR file to start from, which decides `kv_cache` and `dtype`, and edited kernels.

    Returns:
        The plan, loaded.

    Raises:
        DsvError: DSV101, DSV102 (arguments), DSV20x (config), DSV21x (checkpoint), DSV30x (not
            supported), DSV40x (kernels), DSV603 (disk); DSV22x (an IR file).
    """
    return compile_source(
        partial(read_source, Path(model)),
        *(Path(out), target, kv_cache, dtype, progress),
        jobs=jobs,
        frozen=frozen,
        edits=edits,
    )


def compile_source(
    read: Callable[[], Source],
    out: Path,
    target: str = "cpu",
    kv_cache: str = "fp8",
    dtype: str = "bfloat16",
    progress: Progress | None = None,
    *,
    jobs: int | None = None,
    frozen: bool | None = None,
    edits: Edits | None = None,
) -> Plan:
    """`compile`, of what `read` returns."""
    options, edits = _options(target, kv_cache, dtype), edits or Edits()
    report = progress or (lambda phase, done, total: None)
    with replaced_folder(out) as work, EventLog(work / "events.jsonl") as log:
        with log.phase("read checkpoint"):
            source = read()
            ledger = source.ledger
            if edits.ir is None:
                check_supported(source.config, options)
        log.event(
            "ignored", tensors=len(ledger.ignored), reasons=sorted(set(ledger.ignored.values()))
        )
        with log.phase("build graph"):
            if edits.ir is None:
                graph = build_graph(source.config, ledger.weights, options)
            else:
                graph = read_ir(edits.ir, ledger.weights, target)
                options = options_of(graph, options, source.config.sliding_window)
        read_from = mark(edits, graph, log)
        with log.phase("passes"):
            passes = _run_passes(work, graph, target, options, log, report)
            graph = passes.graph
        with log.phase("kernels"):
            kernels = _build(work, graph, target, jobs, frozen, edits.kernels, log, report)
        with log.phase("weights"):
            stored = forms(graph, packed_operands(kernels))
            if source.synthetic is None:
                weights = write_weights(
                    *(work, graph, source.checkpoint, ledger.weights),
                    stored,
                    lambda n, of: report("weights", n, of),
                )
            else:
                weights = synthetic_entries(graph, ledger.weights, stored)
        with log.phase("manifest"):
            for name, content in source.files.items():
                if isinstance(content, Path):
                    shutil.copyfile(content, work / name)
                else:
                    (work / name).write_text(content, encoding="utf-8")
        log.close()
        files = _hashes(work, weights.files)
        made = manifest.Manifest(
            schema=manifest.SCHEMA,
            dsv4c=dsv4c.__version__,
            target=target,
            tools=_tools(),
            model=_model(source, work),
            options=manifest.Options(options.dtype, options.kv_cache, options.chunk),
            kernels=kernels,
            library=LIBRARY if kernels else None,
            passes=passes.entries,
            schedule=schedule_of(graph),
            states=states_of(graph),
            arena=arena_of(graph),
            weights=weights.weights,
            packed=weights.packed,
            files=files,
            phases={name: round(seconds, 6) for name, seconds in log.summary()},
            source_ir=read_from,
            synthetic=source.synthetic,
        )
        (work / MANIFEST).write_bytes(manifest.encode(made))
    return Plan(out, made, graph)


def _options(target: str, kv_cache: str, dtype: str) -> BuildOptions:
    for name, value, allowed, code in (
        ("target", target, TARGETS, "DSV302"),
        ("kv_cache", kv_cache, _CACHES, "DSV101"),
        ("dtype", dtype, tuple(_DTYPES), "DSV101"),
    ):
        if value not in allowed:
            raise DsvError(
                code, f"unknown {name}", expected=" or ".join(allowed), found=repr(value)
            )
    return BuildOptions(_DTYPES[dtype], kv_cache)


class _Passes:
    """Runs the pipeline; keeps the last graph and the manifest's entries."""

    def __init__(self, graph: Graph, entries: list[manifest.Pass]) -> None:
        self.graph, self.entries = graph, entries


def _run_passes(
    work: Path, graph: Graph, target: str, options: BuildOptions, log: EventLog, report: Progress
) -> _Passes:
    (work / "ir").mkdir()
    first, nodes = "ir/00_model.ir", len(graph.nodes)
    (work / first).write_text(show(graph), encoding="utf-8")
    entries: list[manifest.Pass] = []
    passes = pipeline(target, largest_step(options.chunk), graph.stage)
    if not passes:
        entries.append(manifest.Pass(0, "none", False, nodes, nodes, 0.0, 0, 0, first))

    def observe(record: PassRecord) -> None:
        name = f"ir/{record.index:02d}_{record.name}.ir" if record.modified else None
        if name is not None:
            with log.phase("write ir"):
                (work / name).write_text(show(record.graph), encoding="utf-8")
        record_pass(log, record)
        counts = [remark.status for remark in record.remarks]
        entries.append(
            manifest.Pass(
                record.index,
                record.name,
                record.modified,
                record.nodes_before,
                record.nodes_after,
                round(record.seconds, 6),
                counts.count("applied"),
                counts.count("refused"),
                name,
            )
        )
        report("passes", record.index, len(passes))

    final, _ = run_passes(graph, passes, observe)
    return _Passes(final, entries)


def _build(
    work: Path,
    graph: Graph,
    target: str,
    jobs: int | None,
    frozen: bool | None,
    edited: Path | None,
    log: EventLog,
    report: Progress,
) -> list[manifest.Kernel]:
    """Compile and link the kernels of a lowered graph into the plan."""
    sources = kernel_sources(graph, target) if target != "cpu" else {}
    changed = edited_sources(sources, edited) if edited is not None else {}
    sources |= changed
    for name in changed:
        log.event("hand_edited", name=name)
    done: list[str] = []

    def built(name: str, status: str, seconds: float) -> None:
        done.append(name)
        log.event("kernel", name=name, status=status, seconds=round(seconds, 6))
        report("kernels", len(done), len(sources))

    entries = build_kernels(
        list(sources.values()), cache=KernelCache(), workers=jobs, frozen=frozen, progress=built
    )
    for source, entry in zip(sources.values(), entries, strict=True):
        folder = work / "kernels" / source.name
        folder.mkdir(parents=True)
        (folder / SOURCE).write_text(source.text, encoding="utf-8")
        shutil.copyfile(entry.folder / META, folder / META)
    if entries:
        link_library([entry.object for entry in entries], work / LIBRARY)
    users = {name: [node.name for node in graph.nodes if node.impl == name] for name in sources}
    return [
        _kernel(source, entry, users[source.name], source.name in changed)
        for source, entry in zip(sources.values(), entries, strict=True)
    ]


def _kernel(
    source: KernelSource, entry: CacheEntry, nodes: list[str], hand_edited: bool
) -> manifest.Kernel:
    resources = entry.resources
    return manifest.Kernel(
        source.name,
        source.kind,
        source.arch,
        dict(source.params),
        entry.folder.name,
        nodes,
        resources.registers,
        resources.spills,
        resources.smem,
        [manifest.PackedOperand(list(one.inputs), one.packing) for one in source.packed],
        hand_edited,
        [
            manifest.Tile(lookup.kind, one.most, one.values, one.origin)
            for lookup in source.tiles
            for one in lookup.chosen
        ],
    )


def _model(source: Source, work: Path) -> manifest.Model:
    config = source.config
    return manifest.Model(
        source.name,
        sha256(work / "config.json"),
        config.vocab_size,
        len(config.layers),
        config.max_position_embeddings,
        list(config.eos_token_ids),
    )


def _hashes(work: Path, known: Mapping[str, str]) -> dict[str, str]:
    """SHA-256 of every file; `known` are those of files that were hashed when written."""
    paths = sorted(path for path in work.rglob("*") if path.is_file())
    names = {path.relative_to(work).as_posix(): path for path in paths}
    return {name: known.get(name) or sha256(path) for name, path in names.items()}


def _tools() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _TOOLS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
