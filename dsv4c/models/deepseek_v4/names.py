"""Which checkpoint tensors make which weight: a strict ledger over the headers of a checkpoint.

Every tensor of the checkpoint is used, or listed as ignored with its reason; every weight of the
model has its tensors, of the right dtype and shape. Anything else is a problem that names the tensor.
"""

from __future__ import annotations

from dsv4c.models.deepseek_v4.config import ModelConfig
from dsv4c.models.deepseek_v4.ledger import HasTensors, Ledger, TensorSlice, WeightSource
from dsv4c.models.deepseek_v4.matching import Matcher

__all__ = [
    "Ledger",
    "TensorSlice",
    "WeightSource",
    "audit_tensors",
    "read_ledger",
    "resolve_weights",
]


def resolve_weights(config: ModelConfig, checkpoint: HasTensors) -> dict[str, WeightSource]:
    """Source of each logical weight; see `read_ledger`, which also says what is ignored."""
    return read_ledger(config, checkpoint).weights


def read_ledger(config: ModelConfig, checkpoint: HasTensors) -> Ledger:
    """Match the tensors of a checkpoint with the weights of the model.

    Names are those of the official, the ModelOpt or the transformers scheme, in any mixture; the
    format of each weight is read off its tensors.

    Raises:
        DsvError: DSV212, a tensor is missing, extra, misnamed, or has another shape or dtype.
    """
    ledger = audit_tensors(config, checkpoint)
    if ledger.problems:
        raise ledger.problems[0].error()
    return ledger


def audit_tensors(config: ModelConfig, checkpoint: HasTensors) -> Ledger:
    """As `read_ledger`, with every problem listed instead of the first one raised."""
    return Matcher(config, checkpoint.tensors).run()
