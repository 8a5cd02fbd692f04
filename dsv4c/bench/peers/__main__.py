"""Peers without a bench around them; `build` needs no GPU.

usage: python -m dsv4c.bench.peers build LIBRARY                      compiles what all rows need
       python -m dsv4c.bench.peers all LIBRARY FOLDER [PLAN]          one document: card and rows
       python -m dsv4c.bench.peers NAME LIBRARY FOLDER                rows of a peer, a JSON line each
       python -m dsv4c.bench.peers layers PLAN KIND SEQUENCES CONTEXT
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from dsv4c.bench.peers.compare import LIBRARIES, PEERS, PeerRow, compare


def main() -> None:
    """The command line."""
    name, path, *more = sys.argv[1:]
    if name == "build":
        from dsv4c.bench.peers.library import build

        print("\n".join(build(Path(path))))
        return
    if name == "all":
        print(json.dumps(_everything(Path(path), *map(Path, more)), indent=1))
        return
    for row in _rows(name, Path(path), more):
        print(json.dumps(dataclasses.asdict(row)), flush=True)


def _everything(library: Path, folder: Path, plan: Path | None = None) -> dict[str, object]:
    import msgspec

    from dsv4c.bench.card import measure_card

    names = PEERS if plan else tuple(LIBRARIES)
    rows = compare(folder, library, plan, names)
    return {
        "card": msgspec.to_builtins(measure_card()),
        "rows": [dataclasses.asdict(row) for row in rows],
    }


def _rows(name: str, path: Path, more: list[str]) -> Iterator[PeerRow]:
    if name == "layers":
        from dsv4c.bench.peers.layers import rows

        kind, sequences, context = more
        return rows(path, kind, int(sequences), int(context))
    assert name in LIBRARIES, f"{name} is none of {', '.join(LIBRARIES)}, layers, build"
    from dsv4c.bench.peers.library import load

    module = import_module(f"dsv4c.bench.peers.{name}")
    return module.rows(Path(*more), load(path))


if __name__ == "__main__":
    main()
