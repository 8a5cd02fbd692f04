"""The rows of one peer, a JSON line each: a child of `dsv4c bench --peers`; `build` needs no GPU.

usage: python -m dsv4c.bench.peers build FOLDER                  compiles what all rows need into it
       python -m dsv4c.bench.peers NAME LIBRARY FOLDER
       python -m dsv4c.bench.peers layers PLAN SEQUENCES CONTEXT
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import msgspec

from dsv4c.bench.peers.compare import LIBRARIES
from dsv4c.bench.results import PeerRow


def main() -> None:
    """The command line."""
    if len(sys.argv) < 3 or "--help" in sys.argv:
        print(__doc__)
        sys.exit(0 if "--help" in sys.argv else 2)
    name, path, *more = sys.argv[1:]
    if name == "build":
        from dsv4c.bench.peers.library import OURS, build

        print("\n".join(build(Path(path) / OURS)))
        return
    for row in _rows(name, Path(path), more):
        print(msgspec.json.encode(row).decode(), flush=True)


def _rows(name: str, path: Path, more: list[str]) -> Iterator[PeerRow]:
    if name == "layers":
        from dsv4c.bench.peers.layers import rows

        sequences, context = more
        return rows(path, [int(count) for count in sequences.split(",")], int(context))
    assert name in LIBRARIES, f"{name} is none of {', '.join(LIBRARIES)}, layers, build"
    from dsv4c.bench.peers.library import load

    module = import_module(f"dsv4c.bench.peers.{name}")
    folder = Path(*more)
    return module.rows(folder, load(path, folder))


if __name__ == "__main__":
    main()
