"""Measure in how much memory and how fast weights are packed into a plan; write docs/packing.md.

usage: pack_bench.py FOLDER [--config flash] [--layers 0,2,3,4,5] [--speed-layers 2] [--rounds 5]

FOLDER is made, needs room for twice the checkpoint (42 GB by default), and is removed in the end.
No kernel has to ask for a packing: compiles are told what to pack.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

BLOCK = 8 << 20
GATE_UP, DOWN = ("w1", "w3"), ("w2",)
# What is packed: each weight of the routed experts, or pair of them, with its packing.
RUNS: dict[str, dict[tuple[str, ...], str]] = {
    "as stored": {},
    "gate/up interleaved, codes and scales in mma's order": {
        GATE_UP: "gate_up_16+mma_fp4+mma_nvfp4_scales",
        DOWN: "mma_fp4+mma_nvfp4_scales",
    },
}
SPEED = 0.6
Result = dict[str, float]


def main() -> int:
    """Measure memory, then speed, each run in a fresh process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", default="flash")
    parser.add_argument("--layers", default="0,2,3,4,5", help="of the checkpoint for memory")
    parser.add_argument("--speed-layers", default="2", help="of the checkpoint for speed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "packing.md")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run is not None:
        found = copy(args.folder) if args.run == "copy" else pack(args.folder, RUNS[args.run])
        print(json.dumps(found))
        return 0
    args.folder.mkdir(parents=True)
    try:
        synth(args.folder, args.config, args.speed_layers)
        speed = {name: speeds(args.folder, name, args.rounds) for name in RUNS}
        shutil.rmtree(args.folder / "model")
        synth(args.folder, args.config, args.layers)
        memory = {name: measured(args.folder, name) for name in RUNS}
    finally:
        shutil.rmtree(args.folder)
    args.out.write_text(page(args, speed, memory), encoding="utf-8")
    met = [one["share"] >= SPEED for one in speed.values()]
    met += [one["peak"] < one["bound"] for one in memory.values()]
    return int(not all(met))


def synth(folder: Path, config: str, layers: str) -> None:
    """Make the checkpoint."""
    child(["-m", "dsv4c", "synth", config, str(folder / "model"), "--layers", layers])


def speeds(folder: Path, run: str, rounds: int) -> Result:
    """Medians over rounds, each a copy, a compile and a copy: the speed of a disk drifts."""
    found: list[Result] = []
    before = measured(folder, "copy")
    for _ in range(rounds):
        one = measured(folder, run)
        after = measured(folder, "copy")
        one |= {key: (before[key] + after[key]) / 2 for key in after}
        one["share"] = one["disk"] / one["compile"]
        before = after
        found.append(one)
        print(run, one, file=sys.stderr, flush=True)
    medians = {key: statistics.median(one[key] for one in found) for key in found[0]}
    shares = [one["share"] for one in found]
    return medians | {"least": min(shares), "most": max(shares)}


def child(command: list[str]) -> str:
    """Standard output of a Python command."""
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def measured(folder: Path, run: str) -> Result:
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


def copy(folder: Path) -> Result:
    """Read and write every byte of the checkpoint, block after block; all ends on the disk."""
    forget(folder / "model")
    out, buffer = folder / "copy", memoryview(bytearray(BLOCK))
    begin, read = time.perf_counter(), 0.0
    with out.open("wb", buffering=0) as made:
        for path in sorted((folder / "model").glob("*.safetensors")):
            with path.open("rb", buffering=0) as file:
                count = 1
                while count:
                    start = time.perf_counter()
                    count = file.readinto(buffer)
                    read += time.perf_counter() - start
                    made.write(buffer[:count])
        os.fsync(made.fileno())
    whole = time.perf_counter() - begin
    out.unlink()
    return {"disk": whole, "disk_read": read, "disk_write": whole - read}


def told(packings: Mapping[tuple[str, ...], str]) -> AbstractContextManager[object]:
    """Inside, compiles pack routed experts so."""
    from dsv4c import api
    from dsv4c.plan.forms import Form

    def stored(graph: api.Graph, operands: object) -> list[Form]:
        found: list[Form] = []
        for name in graph.weights:
            parent, _, leaf = name.rpartition(".")
            group = next((g for g in packings if leaf in g and parent.endswith(".experts")), None)
            if group is None:
                found.append(Form((name,)))
            elif leaf == group[0]:
                found.append(Form(tuple(f"{parent}.{one}" for one in group), packings[group]))
        return found

    return mock.patch.object(api, "forms", stored)


def pack(folder: Path, packings: Mapping[tuple[str, ...], str]) -> Result:
    """Compile the checkpoint; ends when the plan is on the disk."""
    from dsv4c import api

    size, out = forget(folder / "model"), folder / "plan"
    with told(packings):
        begin = time.perf_counter()
        plan = api.compile(folder / "model", out)
        middle = time.perf_counter()
    written = forget(out)
    synced = time.perf_counter() - middle
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert {one.packing for one in plan.manifest.packed} == {*packings.values()}
    assert written > 0.99 * size, (written, size)
    shutil.rmtree(out)
    return {
        "weights": plan.manifest.phases["weights"] + synced,
        "compile": middle - begin + synced,
        "read": size,
        "written": written,
        "packed_forms": len(plan.manifest.packed),
        "peak": peak,
        "bound": (2 << 30) + two_largest(folder / "model"),
    }


def two_largest(model: Path) -> int:
    """Bytes of the two largest tensors of a checkpoint."""
    from dsv4c.checkpoint.reader import Checkpoint

    return sum(sorted(info.nbytes for info in Checkpoint.open(model).tensors.values())[-2:])


def page(args: argparse.Namespace, speed: dict[str, Result], memory: dict[str, Result]) -> str:
    """The result as Markdown."""
    sizes = [next(iter(one.values()))["read"] / 1e9 for one in (speed, memory)]
    lines = [
        "# Packing",
        "",
        f"Written by `python scripts/pack_bench.py FOLDER --rounds {args.rounds}`. `dsv4c synth {args.config} MODEL --layers",
        f"{args.layers}` makes {sizes[1]:.1f} GB of weights, which `dsv4c.compile` then writes into a plan, the routed experts",
        "in a layout for kernels. Peak: resident memory of the whole process; wanted are at most 2 GiB and the two",
        "largest tensors of the checkpoint.",
        "",
        "| packing | packed weights | peak, GB | at most, GB | whole compile, s |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {one['packed_forms']:.0f} | {one['peak'] / 1e9:.2f} | {one['bound'] / 1e9:.2f} |"
        f" {one['compile']:.1f} |"
        for name, one in memory.items()
    ]
    lines += [
        "",
        f"Speed, on {sizes[0]:.1f} GB (`--layers {args.speed_layers}`), medians of {args.rounds} rounds. The disk is measured right before",
        "and after each compile: the checkpoint is copied, a block read, then written. All times begin with no page",
        "of the checkpoint in memory and end when everything is on the disk; those of compiling hold every check and",
        f"hash. Share: the disk's time by the time of the whole compile, wanted is at least {SPEED:.0%}.",
        "",
        "| packing | disk: read + write, s | whole compile, s | share | least and most |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {one['disk_read']:.1f} + {one['disk_write']:.1f} | {one['compile']:.1f} |"
        f" {one['share']:.0%} | {one['least']:.0%} {one['most']:.0%} |"
        for name, one in speed.items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
