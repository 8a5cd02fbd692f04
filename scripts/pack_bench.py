"""Measure how fast and in how much memory weights are packed into a plan; write docs/packing.md.

usage: pack_bench.py FOLDER [--config flash] [--layers 0,2,3,4,5] [--out docs/packing.md]

FOLDER needs room for two and a half times the checkpoint (about 55 GB by default); it is emptied in the end.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = 8 << 20
GATE_UP, DOWN = ("w1", "w3"), ("w2",)
# What is packed: for each pair of expert weights and the rest its packing.
RUNS: dict[str, dict[tuple[str, ...], str]] = {
    "as stored": {},
    "sm_100a: gate/up interleaved, scales in 128x4 tiles": {
        GATE_UP: "gate_up_8+scales_128x4",
        DOWN: "scales_128x4",
    },
    "sm_90a: gate/up interleaved, codes in wgmma's order": {
        GATE_UP: "gate_up_8+wgmma_64x64",
        DOWN: "wgmma_64x64",
    },
}


def main() -> None:
    """Make the checkpoint, then measure each run and the disk beside it, each in a fresh process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", default="flash")
    parser.add_argument("--layers", default="0,2,3,4,5")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "packing.md")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run is not None:
        found = copy(args.folder) if args.run == "copy" else pack(args.folder, RUNS[args.run])
        print(json.dumps(found))
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    model = args.folder / "model"
    try:
        command = ["-m", "dsv4c", "synth", args.config, str(model), "--layers", args.layers]
        synth = child(command)
        results: dict[str, dict[str, float]] = {}
        for name in RUNS:
            # The disk is measured right before and after: its speed drifts.
            before = measured(args.folder, "copy")
            results[name] = measured(args.folder, name)
            after = measured(args.folder, "copy")
            results[name]["copy"] = (before["seconds"] + after["seconds"]) / 2
            print(name, results[name], file=sys.stderr)
        args.out.write_text(document(args, synth, results), encoding="utf-8")
    finally:
        shutil.rmtree(args.folder, ignore_errors=True)


def child(command: list[str]) -> str:
    """Standard output of a Python command."""
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def measured(folder: Path, run: str) -> dict[str, float]:
    """One run in a process of its own, with no page of the checkpoint cached."""
    return json.loads(child([__file__, str(folder), "--run", run]))


def forget(folder: Path) -> int:
    """Drop a folder's files from the page cache; their size."""
    size = 0
    for path in folder.rglob("*.safetensors"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        size += path.stat().st_size
        os.close(descriptor)
    return size


def copy(folder: Path) -> dict[str, float]:
    """Read the checkpoint, then write as many bytes, one after the other; both end on the disk."""
    size = forget(folder / "model")
    out, buffer = folder / "copy", bytearray(BLOCK)
    begin = time.perf_counter()
    for path in sorted((folder / "model").glob("*.safetensors")):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    middle = time.perf_counter()
    with out.open("wb", buffering=0) as file:
        for _ in range(size // BLOCK):
            file.write(buffer)
        os.fsync(file.fileno())
    end = time.perf_counter()
    out.unlink()
    return {"seconds": end - begin, "read": middle - begin, "write": end - middle}


def pack(folder: Path, packings: dict[tuple[str, ...], str]) -> dict[str, float]:
    """The weights phase of a compile; ends when everything is on the disk."""
    import torch

    from dsv4c.checkpoint.reader import Checkpoint
    from dsv4c.models.deepseek_v4.build import BuildOptions, build_graph
    from dsv4c.models.deepseek_v4.config import load_config
    from dsv4c.models.deepseek_v4.names import read_ledger
    from dsv4c.plan.forms import Form
    from dsv4c.plan.weights import write_weights

    torch.set_num_threads(1)
    size = forget(folder / "model")
    checkpoint, config = Checkpoint.open(folder / "model"), load_config(folder / "model")
    sources = read_ledger(config, checkpoint).weights
    graph = build_graph(config, sources, BuildOptions())
    stored: list[Form] = []
    for name in graph.weights:
        parent, _, leaf = name.rpartition(".")
        group = next((g for g in packings if leaf in g and parent.endswith(".experts")), None)
        if group is None:
            stored.append(Form((name,)))
        elif leaf == group[0]:
            stored.append(Form(tuple(f"{parent}.{one}" for one in group), packings[group]))
    largest = sorted(info.nbytes for info in checkpoint.tensors.values())[-2:]
    out = folder / "plan"
    out.mkdir()
    begin = time.perf_counter()
    write_weights(out, graph, checkpoint, sources, stored, lambda done, total: None)
    written = 0
    for path in (out / "weights").iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
        written += path.stat().st_size
    seconds = time.perf_counter() - begin
    shutil.rmtree(out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    bound = (2 << 30) + sum(largest)
    return {
        "seconds": seconds,
        "read": size,
        "written": written,
        "peak": peak,
        "bound": bound,
    }


def document(args: argparse.Namespace, synth: str, results: dict[str, dict[str, float]]) -> str:
    """The page."""
    size = next(iter(results.values()))["read"]
    rows = [
        f"| {name} | {one['seconds']:.1f} s | {one['copy']:.1f} s | "
        f"{one['copy'] / one['seconds']:.0%} | {one['peak'] / 1e9:.2f} GB | "
        f"{one['bound'] / 1e9:.2f} GB |"
        for name, one in results.items()
    ]
    text = (ROOT / "scripts" / "packing.md.in").read_text(encoding="utf-8")
    values = {
        "COMMAND": f"scripts/pack_bench.py FOLDER --config {args.config} --layers {args.layers}",
        "SIZE": f"{size / 1e9:.1f}",
        "TABLE": "\n".join(rows),
        "SYNTH": f"dsv4c synth {args.config} MODEL --layers {args.layers}",
    }
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    return text


if __name__ == "__main__":
    main()
