"""What a table of experts by token id may hold: for each token experts that there are, all different."""

from __future__ import annotations

from collections.abc import Mapping

from dsv4c.checkpoint.reader import Checkpoint
from dsv4c.errors import DsvError
from dsv4c.models.deepseek_v4.names import WeightSource


def check_tables(checkpoint: Checkpoint, weights: Mapping[str, WeightSource], experts: int) -> None:
    """Refuse a table that names an expert that there is not, or one twice for a token.

    Kernels index by these numbers without a look, and have room for one product of an expert and a
    token.

    Args:
        checkpoint: where the tables are; other weights are not read.
        weights: by name; those of format i64 are tables, [vocabulary, experts of a token].
        experts: routed experts of a layer.

    Raises:
        DsvError: DSV213.
    """
    for name, source in weights.items():
        if source.format != "i64":
            continue
        table = checkpoint.read_component(source, 0)
        ordered = table.sort(-1).values
        outside = (table < 0) | (table >= experts)
        for bad, what, expected in (
            (outside.any(-1), "an expert that there is not", f"numbers from 0 to {experts - 1}"),
            ((ordered[:, 1:] == ordered[:, :-1]).any(-1), "an expert twice", "different experts"),
        ):
            if count := int(bad.sum()):
                first = int(bad.nonzero()[0])
                raise DsvError(
                    "DSV213",
                    f"a token's row of {name} has {what}",
                    where=f"{checkpoint.path}, row {first}",
                    expected=expected,
                    found=f"{count} of {len(table)} rows, the first {table[first].tolist()}",
                    hint="the checkpoint is damaged: fetch the file again",
                )
