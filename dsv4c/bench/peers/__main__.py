"""One peer's rows as JSON lines, or the library that they need.

usage: python -m dsv4c.bench.peers NAME LIBRARY FOLDER      on the GPU
       python -m dsv4c.bench.peers build LIBRARY            compiles; needs no GPU
"""

from __future__ import annotations

import dataclasses
import json
import sys
from importlib import import_module
from pathlib import Path

from dsv4c.bench.peers.compare import PEERS
from dsv4c.bench.peers.library import build, load


def main() -> None:
    """The command line."""
    name, library, *folder = sys.argv[1:]
    if name == "build":
        print("\n".join(build(Path(library))))
        return
    assert name in PEERS, f"{name} is none of {', '.join(PEERS)}"
    module = import_module(f"dsv4c.bench.peers.{name}")
    for row in module.rows(Path(*folder), load(Path(library))):
        print(json.dumps(dataclasses.asdict(row)), flush=True)


if __name__ == "__main__":
    main()
