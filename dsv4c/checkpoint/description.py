"""What config.json and hf_quant_config.json claim about formats, held against the tensors.

The format of a weight is read off its tensors, never off these files. But a file that tells another
story means that files of two checkpoints were mixed, so any contradiction is refused and the file
that disagrees is named. Not every layer type is known to every exporter: a weight that a description
does not mention is no contradiction.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path
from typing import cast

from dsv4c.checkpoint.quantization_config import HF_QUANT_CONFIG
from dsv4c.errors import DsvError
from dsv4c.ir.weight_formats import FP8_BLOCK, NVFP4_BLOCK
from dsv4c.models.deepseek_v4.fields import Fields
from dsv4c.models.deepseek_v4.ledger import WeightSource
from dsv4c.untrusted import Unreadable, inside, read_json

CONFIG = "config.json"
_FP8 = ("fp8_128", "fp8_128_f32")
_METHODS = ("fp8", "modelopt", "modelopt_fp4", "modelopt_mixed", "nvfp4", "mxfp4")
_EXPERT_DTYPES = {"fp4": ("mxfp4", "nvfp4"), "fp8": _FP8, "bf16": ("bf16",), "bfloat16": ("bf16",)}


@dataclass(frozen=True, slots=True)
class _Claim:
    """One description.

    Attributes:
        file: where it stands.
        algorithm: ModelOpt's `quant_algo`, upper case; None where ModelOpt is not described.
        layers: modules that `quantized_layers` lists -> algorithm; None where there is no list.
        excluded: modules that stay as they were, with what lies under them.
        fp8: whether 128x128 blocks of FP8 are claimed.
        group: numbers that share a 4-bit scale.
    """

    file: str
    algorithm: str | None
    layers: Mapping[str, str] | None
    excluded: re.Pattern[str]
    fp8: bool
    group: int | None

    def nvfp4(self, names: Iterable[str], role: str) -> bool | None:
        """Whether the module with these names should be NVFP4; None if nothing is said."""
        if self.algorithm is None:
            return None
        names = list(names)
        if self.layers is not None:
            stems = {stem for name in names for stem in _stems(name)}
            return any("NVFP4" in self.layers.get(stem, "") for stem in stems)
        if "NVFP4" not in self.algorithm or self.skips(names):
            return False
        # Norms, routers and the grouped wo_a are no linear layers to an exporter; compressors and
        # the head are, but are often left alone without a word.
        return True if role == "required" else None

    def skips(self, names: Iterable[str]) -> bool:
        return any(self.excluded.fullmatch(name) for name in names)


def check_description(folder: Path, weights: Mapping[str, WeightSource]) -> None:
    """Compare config.json and hf_quant_config.json with the weights, and with one another.

    Args:
        folder: the checkpoint.
        weights: as `read_ledger` found them.

    Raises:
        DsvError: DSV201 or DSV211, a description is malformed; DSV202, the two contradict one
            another; DSV212, one contradicts the tensors; DSV301, a scheme that is not supported.
    """
    raw = _read(folder, CONFIG, "DSV201")
    claims = list(_claims(folder, raw))
    for claim in claims:
        for name, source in weights.items():
            _check_weight(claim, name, source)
        _check_whole(claim, weights)
    _check_expert_dtype(raw, weights)
    if len(claims) == 2:
        _check_pair(*claims)


def _claims(folder: Path, raw: Fields) -> Iterator[_Claim]:
    described = raw.section("quantization_config")
    if described is not None:
        method = described.raw.get("quant_method", "modelopt")
        if method not in _METHODS:
            known = ", ".join(_METHODS)
            raise described.error("DSV301", "quant_method", "is not supported", known)
        yield _claim(CONFIG, described.section("quantization") or described, method == "fp8")
    if os.path.lexists(folder / HF_QUANT_CONFIG):
        fields = _read(folder, HF_QUANT_CONFIG, "DSV211")
        section = fields.section("quantization")
        if section is None:
            raise fields.error("DSV211", "quantization", "is missing", "an object")
        yield _claim(HF_QUANT_CONFIG, section, fp8=False)


def _read(folder: Path, name: str, code: str) -> Fields:
    path = inside(folder, name)
    try:
        raw = read_json(path)
    except Unreadable as error:
        raise DsvError(code, f"{name} cannot be read", where=str(path), found=str(error)) from None
    if not isinstance(raw, dict):
        found = type(raw).__name__
        raise DsvError(code, f"{name} is not a JSON object", where=str(path), found=found)
    return Fields(cast(dict[str, object], raw), str(path))


def _claim(file: str, fields: Fields, fp8: bool) -> _Claim:
    block = fields.items("weight_block_size") if fp8 else None
    if block is not None and block != [FP8_BLOCK, FP8_BLOCK]:
        expected = [FP8_BLOCK, FP8_BLOCK]
        raise fields.error("DSV301", "weight_block_size", "is not supported", expected)
    if fp8 and fields.raw.get("fmt", "e4m3") != "e4m3":
        raise fields.error("DSV301", "fmt", "is not supported", "e4m3")
    algorithm = fields.raw.get("quant_algo")
    layers = fields.section("quantized_layers")
    group = fields.integer("group_size") if fields.raw.get("group_size") is not None else None
    told = file == HF_QUANT_CONFIG or "quant_algo" in fields.raw
    return _Claim(
        file,
        str(algorithm or "").upper() if told else None,
        None if layers is None else {name: _algorithm(layers, name) for name in layers.raw},
        _patterns(fields),
        fp8,
        group,
    )


def _algorithm(layers: Fields, name: str) -> str:
    section = layers.section(name)
    return str(section.raw.get("quant_algo", "")).upper() if section is not None else ""


def _patterns(fields: Fields) -> re.Pattern[str]:
    """One expression for the modules that are left alone, and for what lies under them."""
    expressions: list[str] = []
    for key in ("exclude_modules", "ignore", "modules_to_not_convert"):
        for pattern in fields.items(key) or []:
            if not isinstance(pattern, str):
                raise fields.error("DSV201", key, "has a wrong value", "names of modules")
            for one in (pattern, f"{pattern}.*"):
                expressions.append(translate(one))
    return re.compile("|".join(expressions) or r"(?!)")


def _check_weight(claim: _Claim, name: str, source: WeightSource) -> None:
    """Refuse a claim about a weight that its tensors belie."""
    slices = source.components[0][1]
    for number in sorted({0, len(slices) - 1}):
        tensor = slices[number].name
        names = _modules(name, tensor, number if ".experts." in name else None)
        said = claim.nvfp4(names, _role(name))
        if said is not None and said != (source.format == "nvfp4"):
            expected = "NVFP4" if said else "another format than NVFP4"
            raise _contradiction(claim.file, tensor, expected, source.format)
        if claim.fp8 and source.format in _FP8 and claim.algorithm is None and claim.skips(names):
            raise _contradiction(claim.file, tensor, "a weight that is not FP8", source.format)


def _check_whole(claim: _Claim, weights: Mapping[str, WeightSource]) -> None:
    """Refuse a claim that no weight bears out, or a wrong block of 4-bit weights."""
    formats = {source.format for source in weights.values()}
    if claim.fp8 and not formats & {*_FP8}:
        raise _contradiction(claim.file, "", "FP8 weights", ", ".join(sorted(formats)))
    if claim.group not in (None, NVFP4_BLOCK) and "nvfp4" in formats:
        expected = f"group_size {claim.group}"
        raise _contradiction(claim.file, "", expected, f"NVFP4 in groups of {NVFP4_BLOCK}")


def _check_expert_dtype(raw: Fields, weights: Mapping[str, WeightSource]) -> None:
    dtype = raw.raw.get("expert_dtype")
    allowed = _EXPERT_DTYPES.get(dtype) if isinstance(dtype, str) else None
    for name, source in weights.items():
        if allowed is not None and ".ffn.experts." in name and source.format not in allowed:
            tensor = source.components[0][1][0].name
            raise _contradiction(CONFIG, tensor, f"expert_dtype {dtype}", source.format)


def _check_pair(config: _Claim, other: _Claim) -> None:
    """Refuse two descriptions of which both fit the tensors, but one tells more than the other."""
    if config.algorithm is None:
        return
    for what, mine, theirs in (
        ("quant_algo", config.algorithm, other.algorithm),
        ("group_size", config.group, other.group),
        ("quantized_layers", config.layers, other.layers),
    ):
        if mine is not None and theirs is not None and mine != theirs:
            raise DsvError(
                "DSV202",
                f"{HF_QUANT_CONFIG} contradicts {CONFIG}",
                where=f"{HF_QUANT_CONFIG}, {what}",
                expected=f"as in {CONFIG}: {str(mine)[:200]}",
                found=str(theirs)[:200],
                hint="both files must be of one checkpoint",
            )


def _role(name: str) -> str:
    leaf = name.rpartition(".")[2]
    attention = ".attn." in name and leaf in ("wq_a", "wq_b", "wkv", "wo_b")
    linear = attention and ".compressor." not in name and ".indexer." not in name
    return "required" if linear or "experts." in name else ""


def _modules(name: str, tensor: str, expert: int | None) -> list[str]:
    """Names that a description may use for a weight: the checkpoint's own, and the official one."""
    stem = tensor.removesuffix(".weight")
    if expert is not None and ".ffn.experts." in name:
        parent, leaf = name.rsplit(".", 1)
        name = f"{parent}.{expert}.{leaf}"
    bare = stem.removeprefix("model.")
    return [stem, bare, f"model.{bare}", name]


def _stems(name: str) -> Iterator[str]:
    """A module and all that it lies under."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _contradiction(file: str, tensor: str, expected: str, found: str) -> DsvError:
    return DsvError(
        "DSV212",
        f"{file} contradicts the tensors",
        where=f"{file}, tensor {tensor}" if tensor else file,
        expected=f"{expected}, as {file} says",
        found=found,
        hint=f"{file} must be of the same checkpoint as the weights",
    )
