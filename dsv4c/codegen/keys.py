"""The content key of a kernel: what its object depends on, and nothing else."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata

from dsv4c.codegen.kernel import KernelSource

OPTIONS = "--enable-tvm-ffi --opt-level 3"
_TOOLS = ("nvidia-cutlass-dsl", "apache-tvm-ffi")


@dataclass(frozen=True, slots=True)
class KernelKey:
    """A kernel's name and its content key.

    Args:
        name: the exported function.
        parts: what the digest is over, readable; kept in meta.json.
        digest: sha256 of the parts, hexadecimal.
    """

    name: str
    parts: Mapping[str, str]
    digest: str

    @property
    def folder(self) -> str:
        """Folder name of the kernel in a cache."""
        return f"{self.name}__{self.digest[:12]}"


@functools.cache
def tool_versions() -> dict[str, str]:
    """Version of every installed distribution that shapes an object, by normalised name.

    The compiler is spread over several distributions (`-libs-cu12`, `-libs-cu13` ...) which carry
    different back ends under one version of the front end.
    """
    found: dict[str, str] = {}
    for dist in metadata.distributions():
        name = dist.name.lower().replace("_", "-")
        if name.startswith(_TOOLS):
            found[name] = dist.version
    return dict(sorted(found.items()))


def kernel_key(source: KernelSource) -> KernelKey:
    """The content key of a rendered kernel; provenance and other comments of the header are out."""
    parts = {
        "name": source.name,
        "arch": source.arch,
        "source_sha256": hashlib.sha256(source.body.encode()).hexdigest(),
        "options": OPTIONS,
        **tool_versions(),
    }
    text = json.dumps(parts, sort_keys=True)
    return KernelKey(source.name, parts, hashlib.sha256(text.encode()).hexdigest())
