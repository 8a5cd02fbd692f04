"""Broken copies of a small checkpoint."""

from __future__ import annotations

from collections.abc import Iterator

import mutations_file
import mutations_folder
from sound import Mutant, Sound

FAMILIES = (
    mutations_file.lengths,
    mutations_file.header_bytes,
    mutations_file.header_entries,
    mutations_file.truncations,
    mutations_file.dtypes_and_shapes,
    mutations_file.names,
    mutations_file.values,
    mutations_folder.index_lies,
    mutations_folder.shard_swaps,
    mutations_folder.links_and_special_files,
    mutations_folder.changing_files,
    mutations_folder.configs,
)


def mutants(sound: Sound) -> Iterator[Mutant]:
    """Every mutant of a checkpoint, in a fixed order."""
    for family in FAMILIES:
        yield from family(sound)
