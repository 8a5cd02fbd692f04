"""Plans without weight files: their weights are random and made when the plan is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dsv4c.checkpoint.synthetic import SyntheticCheckpoint, synthetic_weights
from dsv4c.ir.graph import Graph
from dsv4c.ir.types import WeightType
from dsv4c.ir.weight_formats import weight_format
from dsv4c.models.deepseek_v4.config import parse_config
from dsv4c.models.deepseek_v4.names import Ledger, WeightSource, read_ledger
from dsv4c.plan import manifest
from dsv4c.plan.entries import WrittenWeights, entries
from dsv4c.plan.files import inside
from dsv4c.plan.forms import Form, packed_shapes
from dsv4c.plan.pieces import component_pieces

CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class SyntheticReader:
    """Makes the stored components of a plan's weights on a device.

    Attributes:
        checkpoint: the random tensors.
        ledger: which of them make which weight.
        device: where they are made.
    """

    checkpoint: SyntheticCheckpoint
    ledger: Ledger
    device: torch.device

    @classmethod
    def open(cls, root: Path, made: manifest.Synthetic, device: torch.device) -> SyntheticReader:
        """The weights that a manifest describes, for the config.json of the plan at `root`.

        Raises:
            DsvError: DSV20x, the config; DSV101 or DSV301, formats that it cannot have.
        """
        path = inside(root, CONFIG)
        config = parse_config(json.loads(path.read_text(encoding="utf-8")), str(path))
        checkpoint = synthetic_weights(
            *(config, made.seed, made.experts, made.attention),
            originals=made.originals,
            device=device,
        )
        return cls(checkpoint, read_ledger(config, checkpoint), device)

    def tensors(
        self, form: Form, types: Sequence[WeightType], parts: Sequence[manifest.Component]
    ) -> tuple[Tensor, ...]:
        """Stored components of a form, whose weights have these types."""
        sources = [self.ledger.weights[name] for name in form.weights]
        shapes = packed_shapes(form, types)
        return tuple(
            self._component(form, sources, number, shape) for number, shape in enumerate(shapes)
        )

    def _component(
        self, form: Form, sources: Sequence[WeightSource], number: int, shape: tuple[int, ...]
    ) -> Tensor:
        dtype = weight_format(sources[0].format).components[number].torch_dtype
        whole = torch.empty(shape, dtype=dtype, device=self.device)
        flat, done = whole.view(-1), 0
        for piece in component_pieces(self.checkpoint, form, sources, number):
            flat[done : done + piece.numel()] = piece.reshape(-1)
            done += piece.numel()
        return whole


def synthetic_entries(
    graph: Graph, sources: Mapping[str, WeightSource], stored: Sequence[Form]
) -> WrittenWeights:
    """The manifest's entries for weights that are in no file; see `entries`."""
    components = {one.tensor: one for form in stored for one in _components(form, sources)}
    return entries(graph, sources, stored, components, {})


def _components(form: Form, sources: Mapping[str, WeightSource]) -> list[manifest.Component]:
    joined = [sources[name] for name in form.weights]
    spec = weight_format(joined[0].format)
    shapes = packed_shapes(form, [WeightType(one.format, one.shape) for one in joined])
    return [
        manifest.Component(
            f"{form.key}/{part.name}",
            manifest.NO_FILE,
            str(part.torch_dtype).removeprefix("torch."),
            list(shape),
        )
        for part, shape in zip(spec.components, shapes, strict=True)
    ]
