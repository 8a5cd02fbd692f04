"""A sound checkpoint that mutants are made of."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from damage import INDEX, Edit, Json, Shard, reindex


@dataclass(frozen=True)
class Mutant:
    """One broken checkpoint.

    Attributes:
        kind: family of the damage.
        what: the damage.
        apply: does it to a copy of the folder.
        names: what the refusal must name: file, tensor.
        after: the damage is done when so many reads of tensors have begun; 0 is at once.
    """

    kind: str
    what: str
    apply: Edit
    names: tuple[str, ...] = ()
    after: int = 0


class Sound:
    """A sound checkpoint, to choose from what to damage.

    Args:
        folder: the checkpoint.
        used: tensors that make weights of the model.
        seed: of every choice.
    """

    def __init__(self, folder: Path, used: set[str], seed: int) -> None:
        self.folder = folder
        self.used = used
        self.random = random.Random(f"{folder.name} {seed}")
        self.files = sorted(path.name for path in folder.glob("*.safetensors"))
        self.shards = {file: Shard.read(folder / file) for file in self.files}
        self.places = {n: file for file, shard in self.shards.items() for n in shard.tensors()}
        self.indexed = (folder / INDEX).exists()

    def pick(self, count: int, which: Callable[[str], bool] = lambda name: True) -> list[str]:
        """Some tensors of the model."""
        names = sorted(name for name in self.places if name in self.used and which(name))
        return self.random.sample(names, min(count, len(names)))

    def entry(self, name: str) -> Json:
        return self.shards[self.places[name]].header[name]

    def consistent(self, change: Edit) -> Edit:
        """The same, with an index that agrees."""

        def apply(folder: Path) -> None:
            change(folder)
            if self.indexed:
                reindex(folder)

        return apply
