"""Runs each peer in a child process of its own and collects its rows.

A peer is another implementation: its native library lies in a folder that the user names, which is
trusted by that choice, or it is a Python package of this machine.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dsv4c.bench.results import PeerRow

# What a peer needs in the folder: files of vLLM's wheel.
LIBRARIES = {
    "flashmla": "_flashmla_C.abi3.so",
    "insert": "_C_stable_libtorch.abi3.so",
    "marlin": "_moe_C_stable_libtorch.abi3.so",
}
PEERS = (*LIBRARIES, "layers")


@dataclass(frozen=True, slots=True)
class Layers:
    """Decode steps of a plan whose layers are compared with the same in torch.

    Attributes:
        plan: for this machine's GPU.
        sequences: of each step.
        context: tokens that each sequence holds before it.
    """

    plan: Path
    sequences: Sequence[int]
    context: int


def missing(peer: str, kernel: str) -> PeerRow:
    """A row for a kernel that no library has."""
    return PeerRow(peer, "", note=f"in no library: {kernel}")


def compare(
    folder: Path | None,
    library: Path,
    layers: Layers | None = None,
    names: Sequence[str] = PEERS,
    limit: float = 240.0,
    report: Callable[[str, int, int], None] | None = None,
) -> list[PeerRow]:
    """Rows of every peer; one with a note where a library is missing or a child failed.

    Args:
        folder: where the peers' libraries lie; None where the user named none.
        library: of generated kernels, as `dsv4c.bench.peers.library` names them.
        layers: compared with the same in torch; None to leave them out.
        names: of peers.
        limit: seconds for each peer.
        report: called with (phase, done, total).
    """
    rows: list[PeerRow] = []
    for number, name in enumerate(names, 1):
        absent = _absent(folder, layers, name)
        if absent:
            rows.append(PeerRow(name, "", note=absent))
        elif name == "layers" and layers is not None:
            counts = ",".join(map(str, layers.sequences))
            rows += _child(name, (str(layers.plan), counts, str(layers.context)), limit)
        else:
            rows += _child(name, (str(library), str(folder)), limit)
        if report is not None:
            report("peers", number, len(names))
    return rows


def _absent(folder: Path | None, layers: Layers | None, name: str) -> str:
    """Why a peer cannot run, or nothing."""
    file = LIBRARIES.get(name)
    if file is None:
        return "" if layers else "not given: a plan"
    if folder is None:
        return f"not given: {file}"
    return "" if (folder / file).is_file() else f"not given: {folder / file}"


def _child(name: str, more: Sequence[str], limit: float) -> list[PeerRow]:
    command = [sys.executable, "-m", "dsv4c.bench.peers", name, *more]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        try:
            out, err = process.communicate(timeout=limit)
            end = "" if process.returncode == 0 else f"ended with {process.returncode}"
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            end = f"stopped after {limit:g} s"
    lines = [line for line in out.splitlines() if line.startswith("{")]
    rows = [msgspec.json.decode(line, type=PeerRow) for line in lines]
    if end:
        last = err.strip().splitlines()[-1:] or ["no message"]
        rows.append(PeerRow(name, "", note=f"{end}: {last[0]}"))
    return rows
