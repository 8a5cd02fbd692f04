"""Tables of docs/performance.md from runs of `python -m dsv4c.bench.peers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def tables(folder: Path) -> dict[str, str]:
    """The bodies of the page's blocks by name, of the files that are there.

    `peers.json` is a document of `all`, `peers_layers.jsonl` the lines of runs of `layers`.
    """
    found: dict[str, str] = {}
    kernels, layers = folder / "peers.json", folder / "peers_layers.jsonl"
    if kernels.exists():
        run = json.loads(kernels.read_text(encoding="utf-8"))
        rate = run["card"]["copy"]
        found["peers"] = _table(run["rows"], rate)
        found["peers"] += f"\n\n{run['card']['name']}, copy rate {rate / 1e12:.2f} TB/s."
    if layers.exists():
        lines = layers.read_text(encoding="utf-8").splitlines()
        found["peers layers"] = _table([json.loads(line) for line in lines], None)
    return found


def _table(rows: list[Row], rate: float | None) -> str:
    """One line for each shape."""
    head = ["peer", "shape", "us", "peer us", "peer / ours"]
    head += ["error / bound", "peer's", "of copy rate"] if rate else ["difference / bound"]
    lines = ["| " + " | ".join([*head, "note"]) + " |", "|" + "---|" * (len(head) + 1)]
    for row in rows:
        cells = [row["peer"], row["case"]]
        if row["us"] is None:
            cells += ["-"] * (len(head) - 2)
        else:
            cells += [_number(row["us"]), _number(row["peer_us"])]
            cells += [f"{row['peer_us'] / row['us']:.2f}"]
            cells += [f"{row[name]:.2f}" for name in (*(["ratio"] if rate else []), "peer_ratio")]
            if rate:
                cells.append(f"{row['bytes'] / (row['us'] * 1e-6) / rate:.0%}")
        lines.append("| " + " | ".join([*cells, row["note"]]) + " |")
    return "\n".join(lines)


def _number(us: float) -> str:
    return f"{us:.2f}" if us < 1000 else f"{us:.0f}"
