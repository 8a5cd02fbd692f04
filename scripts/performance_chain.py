"""Tables of docs/performance.md from runs of `scripts/gpu_chain.py` and `scripts/gpu_host.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Result = dict[str, Any]
KINDS = {0: "window only", 1: "CSA", 2: "HCA"}
"""Of the layers of a plan of layers 0, 2, 3 of Flash."""
BATCHES = (1, 64)


def tables(folder: Path) -> dict[str, str]:
    """The bodies of the page's blocks by name, of the files that are there."""
    found: dict[str, str] = {}
    steps = {n: read for n in BATCHES if (read := _read(folder / f"chain_flash_{n}.json"))}
    if steps:
        off = {n: _read(folder / f"chain_flash_{n}_off.json") for n in steps}
        found["chain"] = _nodes(steps, off)
    host = _read(folder / "host.json")
    if host:
        found["host"] = _host(host)
    return found


def _read(path: Path) -> Result | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _nodes(steps: dict[int, Result], off: dict[int, Result | None]) -> str:
    """Nodes of the layers in order, and the layers."""
    heads: list[str] = []
    for n in steps:
        heads += [f"B = {n}: in step", "alone", "floor", *(["PDL off"] if off[n] else [])]
    lines = [f"| kernel | layer | {' | '.join(heads)} |", "|---|---|" + "---|" * len(heads)]
    first = next(iter(steps.values()))
    for i, node in enumerate(first["nodes"]):
        if node["layer"] is None:
            continue
        cells: list[str] = []
        for n, step in steps.items():
            one, without = step["nodes"][i], off[n]
            cells += [f"{one[key]:.1f}" for key in ("us", "alone_us", "floor_us")]
            cells += [f"{without['nodes'][i]['us']:.1f}"] if without else []
        kind = KINDS[node["layer"]]
        lines.append(f"| `{node['kernel']}` | {kind} | {' | '.join(cells)} |")
    lines += [
        "",
        "| layer | B | us | floor us | time / floor | PDL off: us |",
        "|---|---|---|---|---|---|",
    ]
    for n, step in steps.items():
        without = off[n]
        for layer, one in step["layers"].items():
            last = f"{without['layers'][layer]['us']:.1f}" if without else "-"
            ratio = one["us"] / one["floor_us"]
            lines.append(
                f"| {KINDS[int(layer)]} | {n} | {one['us']:.1f} | {one['floor_us']:.1f} | "
                f"{ratio:.2f} | {last} |"
            )
    return "\n".join(lines)


def _host(found: Result) -> str:
    """Host time of a decode step, by number of sequences."""
    lines = [
        f"{found['layers']} layers, {found['kernels']} kernels.",
        "",
        "| sequences | whole call us | launch us | graph replay us |",
        "|---|---|---|---|",
    ]
    for step in found["steps"]:
        cells = (f"{step[key]['us']:.1f}" for key in ("call", "launch", "replay"))
        lines.append(f"| {step['sequences']} | {' | '.join(cells)} |")
    return "\n".join(lines)
