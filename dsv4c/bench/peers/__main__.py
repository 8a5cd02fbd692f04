"""One peer's rows as JSON lines, or the library that they need.

usage: python -m dsv4c.bench.peers NAME LIBRARY FOLDER                          on the GPU
       python -m dsv4c.bench.peers layers PLAN KIND SEQUENCES CONTEXT           on the GPU
       python -m dsv4c.bench.peers build LIBRARY                                compiles; needs no GPU
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from dsv4c.bench.peers.compare import LIBRARIES, PeerRow


def main() -> None:
    """The command line."""
    name, path, *more = sys.argv[1:]
    if name == "build":
        from dsv4c.bench.peers.library import build

        print("\n".join(build(Path(path))))
        return
    for row in _rows(name, Path(path), more):
        print(json.dumps(dataclasses.asdict(row)), flush=True)


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
