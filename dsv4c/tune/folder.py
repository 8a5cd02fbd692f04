"""A tuning folder: candidates for tiles of a plan's kernels, compiled, for a machine with a GPU.

`manifest.json` (this schema), one library with every candidate, and the plan whose kernels they
stand beside unless it was given. Nothing is opened before its hash was compared; no pickle.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from dsv4c.codegen.tuned import Values
from dsv4c.plan.files import malformed, read_manifest, verify_files

SCHEMA = "dsv4c.tune/1"
LIBRARY = "library.so"
# Not in the folder itself: while that is made it is locked, as is a plan's parent (`dsv4c.folders`).
PLAN = "model/plan"
WHAT = "tuning folder"
Shape = dict[str, int | str | tuple[int, ...]]


class Candidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A compiled kernel with another tile; resources are per thread or block."""

    name: str
    tile: Values
    registers: int
    spills: int
    smem: int


class Bucket(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tile of a kernel and what may replace it.

    Attributes:
        kernel: name in the plan.
        cache_key: of that kernel, as in the plan's manifest.
        kind: of tile, a module of `dsv4c.codegen.spaces`.
        shape: what the tile is looked up by.
        most: the bucket: the largest T that the tile is for, 0 for any.
        tokens: T at which it is measured.
        tile: the present one, without `most`.
        table: that of the table.
        origin: of the present one (`dsv4c.codegen.tuned.Chosen`).
        candidates: other ones.
    """

    kernel: str
    cache_key: str
    kind: str
    shape: Shape
    most: int
    tokens: list[int]
    tile: Values
    table: Values
    origin: str
    candidates: list[Candidate]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a tuning folder holds.

    Attributes:
        schema: of this file.
        dsv4c: version.
        target: that everything is compiled for.
        tools: versions of the compiler.
        model: name of the plan's model.
        context: tokens that each sequence holds before a measured step.
        chunk: most tokens of a sequence in a step; steps of more tokens have several sequences.
        buckets: by kernel and `most`.
        library: file with all candidates.
        plan: whether the plan is in the folder.
        files: SHA-256 of every file beside this one and those of the plan, by relative path.
    """

    schema: str
    dsv4c: str
    target: str
    tools: dict[str, str]
    model: str
    context: int
    chunk: int
    buckets: list[Bucket]
    library: str
    plan: bool
    files: dict[str, str]

    @property
    def steps(self) -> list[int]:
        """Tokens of each step that is measured, ascending."""
        return sorted({tokens for bucket in self.buckets for tokens in bucket.tokens})


def read_folder(path: Path) -> Manifest:
    """Read a tuning folder and compare its files with their recorded hashes.

    The plan in it is checked by `load_plan`.

    Raises:
        DsvError: DSV231 (missing, malformed), DSV232 (a file was changed), DSV233 (of another
            version).
    """
    read = read_manifest(path, Manifest, SCHEMA, WHAT)
    if read.library not in read.files:
        raise malformed(path, f"the hash of {read.library}", "none", WHAT)
    if not read.buckets or min(read.context, read.chunk) < 1:
        found = f"buckets {len(read.buckets)}, context {read.context}, chunk {read.chunk}"
        raise malformed(path, "buckets to measure, a context and a chunk", found, WHAT)
    for bucket in read.buckets:
        if not bucket.tokens or min(bucket.tokens) < 1:
            raise malformed(
                path, f"numbers of tokens for {bucket.kernel}", str(bucket.tokens), WHAT
            )
    verify_files(path, read.files, WHAT)
    return read


def encode(manifest: Manifest) -> bytes:
    """Indented JSON."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
