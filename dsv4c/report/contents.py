"""The weights of a checkpoint, from headers alone: formats, bytes, what is missing or not used."""

from __future__ import annotations

import re
from math import prod
from pathlib import Path
from typing import TypedDict

from dsv4c.checkpoint.description import check_description
from dsv4c.checkpoint.reader import Checkpoint
from dsv4c.errors import DsvError
from dsv4c.ir.weight_formats import weight_format
from dsv4c.models.deepseek_v4.config import load_config
from dsv4c.models.deepseek_v4.inventory import Role, logical_weights, weight_class
from dsv4c.models.deepseek_v4.ledger import Ledger, WeightSource
from dsv4c.models.deepseek_v4.names import audit_tensors
from dsv4c.report.selection import Selection
from dsv4c.report.weights import FormatView, WeightView, sum_formats


class ClassView(TypedDict):
    """Weights of one class and format."""

    name: str
    format: str
    layers: list[int]
    weights: int
    tensors: int
    parameters: int
    bytes: int


class SetAsideView(TypedDict):
    """Tensors that are not used, for one reason."""

    reason: str
    count: int
    bytes: int
    tensors: list[str]


class ContentsView(TypedDict):
    files: int
    tensors: int
    bytes: int
    formats: list[FormatView]
    classes: list[ClassView]
    weights: list[WeightView]
    ignored: list[SetAsideView]
    missing: list[str]
    unused: list[str]
    wrong: list[str]


def contents_view(path: Path, selection: Selection) -> tuple[ContentsView, DsvError | None]:
    """The selected weights of a checkpoint folder, and the error that keeps it from being used.

    Raises:
        DsvError: DSV20x (config), DSV211, a file is missing or malformed.
    """
    config, checkpoint = load_config(path), Checkpoint.open(path)
    ledger = audit_tensors(config, checkpoint)
    roles: dict[str, Role] = {name: weight.role for name, weight in logical_weights(config).items()}
    weights = [_weight(name, source) for name, source in ledger.weights.items()]
    weights = [w for w in weights if selection.takes(w["layer"], w["name"], *w["tensors"])]
    groups: dict[tuple[str, str], list[WeightView]] = {}
    for weight in weights:
        known = weight_class(weight["name"], roles[weight["name"]])
        groups.setdefault((known, weight["format"]), []).append(weight)
    view: ContentsView = {
        "files": len(checkpoint.stamps),
        "tensors": len(checkpoint.tensors),
        "bytes": sum(info.nbytes for info in checkpoint.tensors.values()),
        "formats": sum_formats(weights),
        "classes": [_class(*key, group) for key, group in sorted(groups.items())],
        "weights": weights,
        "ignored": _ignored(ledger, checkpoint),
        "missing": _problems(ledger, "missing"),
        "unused": _problems(ledger, "unused"),
        "wrong": _problems(ledger, "wrong"),
    }
    return view, _error(path, ledger)


def _weight(name: str, source: WeightSource) -> WeightView:
    layer = re.match(r"layers\.(\d+)\.", name)
    return {
        "name": name,
        "layer": int(layer[1]) if layer else None,
        "format": source.format,
        "dims": list(source.shape),
        "parameters": prod(source.shape),
        "bytes": weight_format(source.format).nbytes(source.shape),
        "tensors": [piece.name for _, slices in source.components for piece in slices],
    }


def _class(name: str, fmt: str, weights: list[WeightView]) -> ClassView:
    return {
        "name": name,
        "format": fmt,
        "layers": sorted({w["layer"] for w in weights if w["layer"] is not None}),
        "weights": len(weights),
        "tensors": sum(len(w["tensors"]) for w in weights),
        "parameters": sum(w["parameters"] for w in weights),
        "bytes": sum(w["bytes"] for w in weights),
    }


def _ignored(ledger: Ledger, checkpoint: Checkpoint) -> list[SetAsideView]:
    reasons: dict[str, list[str]] = {}
    for name, reason in ledger.ignored.items():
        reasons.setdefault(reason, []).append(name)
    return [
        {
            "reason": reason,
            "count": len(names),
            "bytes": sum(checkpoint.tensors[name].nbytes for name in names),
            "tensors": names,
        }
        for reason, names in reasons.items()
    ]


def _problems(ledger: Ledger, kind: str) -> list[str]:
    return [problem.tensor for problem in ledger.problems if problem.kind == kind]


def _error(path: Path, ledger: Ledger) -> DsvError | None:
    if ledger.problems:
        return ledger.problems[0].error()
    try:
        check_description(path, ledger.weights)
    except DsvError as error:
        return error
    return None
