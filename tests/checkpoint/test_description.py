"""Descriptions of formats: both files are accepted, and every contradiction names its file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsv4c.checkpoint.description import check_description
from dsv4c.checkpoint.quantize import quantize_checkpoint
from dsv4c.checkpoint.reader import Checkpoint
from dsv4c.errors import DsvError
from dsv4c.models.deepseek_v4.config import load_config
from dsv4c.models.deepseek_v4.names import read_ledger

Edit = Callable[[dict[str, Any]], object]
HF = "hf_quant_config.json"
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
NVFP4 = {
    "quant_method": "modelopt",
    "quant_algo": "NVFP4",
    "group_size": 16,
    "ignore": ["*attn*", "*shared*"],
}


def check(folder: Path) -> None:
    check_description(folder, read_ledger(load_config(folder), Checkpoint.open(folder)).weights)


def edit(folder: Path, name: str, change: Edit) -> None:
    path = folder / name
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def describe(folder: Path, section: dict[str, Any] | None, **fields: object) -> None:
    """Replace what the files of a checkpoint say."""
    (folder / HF).unlink(missing_ok=True)

    def change(content: dict[str, Any]) -> None:
        content.pop("quantization_config", None)
        content.pop("expert_dtype", None)
        content.update(fields)
        if section is not None:
            content["quantization_config"] = section

    edit(folder, "config.json", change)


@pytest.fixture
def nvfp4(checkpoint: Path, tmp_path: Path) -> Path:
    """ModelOpt's layout: NVFP4 experts, FP8 attention, both files."""
    quantize_checkpoint(checkpoint, tmp_path / "q")
    return tmp_path / "q"


def test_what_quantize_writes_is_consistent(checkpoint: Path, tmp_path: Path) -> None:
    check(checkpoint)
    for experts in ("nvfp4", "mxfp4", "bf16"):
        for attention in ("fp8", "fp8-all", "bf16"):
            out = tmp_path / f"{experts}-{attention}"
            quantize_checkpoint(checkpoint, out, experts=experts, attention=attention)
            check(out)


def test_either_file_will_do(nvfp4: Path) -> None:
    edit(nvfp4, "config.json", lambda c: c.pop("quantization_config"))
    check(nvfp4)
    (nvfp4 / HF).unlink()
    check(nvfp4)
    describe(nvfp4, NVFP4)
    check(nvfp4)
    describe(nvfp4, {"quant_method": "modelopt", "quantization": NVFP4})
    check(nvfp4)
    describe(nvfp4, FP8, expert_dtype="fp4")
    check(nvfp4)


def hf(**changes: object) -> Callable[[Path], None]:
    return lambda folder: edit(folder, HF, lambda c: c["quantization"].update(changes))


LAYERS = [f"layers.{number}.ffn.experts" for number in range(3)]
ONE = {"quant_algo": "NVFP4", "group_size": 16}
BAD: list[tuple[Callable[[Path], object], str, str, str]] = [
    (hf(quant_algo="FP8", quantized_layers=None), "DSV212", HF, "another format than NVFP4"),
    (hf(quant_algo=None, quantized_layers=None), "DSV212", HF, "another format than NVFP4"),
    (hf(quantized_layers=dict.fromkeys(LAYERS[:2], ONE)), "DSV212", HF, "layers.2.ffn.experts.0"),
    (hf(quantized_layers=dict.fromkeys(["layers.1.attn"], ONE)), "DSV212", HF, "experts"),
    (
        hf(quantized_layers=dict.fromkeys([*LAYERS, "layers.1.attn.wq_a"], ONE)),
        "DSV212",
        HF,
        "NVFP4, as",
    ),
    (hf(group_size=32), "DSV212", HF, "group_size 32"),
    (hf(quant_algo="NVFP4", quantized_layers=None), "DSV202", HF, "quant_algo"),
    (
        hf(
            quant_algo="NVFP4",
            quantized_layers=None,
            exclude_modules=["*.experts.2.w1", "*.attn.*", "*.shared_experts.*"],
        ),
        "DSV212",
        HF,
        "layers.0.ffn.experts.2.w1",
    ),
    (
        hf(quant_algo="NVFP4", quantized_layers=None, exclude_modules=[]),
        "DSV212",
        HF,
        "layers.0.attn.wq_a",
    ),
    (hf(exclude_modules=[3]), "DSV201", HF, "exclude_modules"),
    (hf(quantized_layers=[1]), "DSV201", HF, "quantized_layers"),
    (lambda f: (f / HF).write_text("{"), "DSV211", HF, "cannot be read"),
    (lambda f: (f / HF).write_text("[]"), "DSV211", HF, "not a JSON object"),
    (lambda f: (f / HF).write_text("{}"), "DSV211", HF, "quantization"),
    (lambda f: describe(f, FP8 | {"weight_block_size": [64, 64]}), "DSV301", "config.json", "64"),
    (lambda f: describe(f, FP8 | {"fmt": "e5m2"}), "DSV301", "config.json", "e5m2"),
    (
        lambda f: describe(f, FP8 | {"modules_to_not_convert": ["layers.1.attn"]}),
        "DSV212",
        "config.json",
        "layers.1.attn.wq_a",
    ),
    (lambda f: describe(f, {"quant_method": "awq"}), "DSV301", "config.json", "awq"),
    (lambda f: describe(f, None, expert_dtype="fp8"), "DSV212", "config.json", "expert_dtype fp8"),
    (lambda f: describe(f, NVFP4 | {"ignore": ["*"]}), "DSV212", "config.json", "experts.0.w1"),
]


@pytest.mark.parametrize(("change", "code", "file", "text"), BAD, ids=range(len(BAD)))
def test_contradictions(
    nvfp4: Path, change: Callable[[Path], object], code: str, file: str, text: str
) -> None:
    check(nvfp4)
    change(nvfp4)
    with pytest.raises(DsvError) as error:
        check(nvfp4)
    assert error.value.code == code
    assert file in error.value.where
    assert text in str(error.value)


def test_fp8_that_is_not_there(checkpoint: Path) -> None:
    describe(checkpoint, FP8)
    with pytest.raises(DsvError, match=r"FP8 weights, as config\.json says") as error:
        check(checkpoint)
    assert error.value.code == "DSV212"


def test_quantize_refuses_contradictions(nvfp4: Path, tmp_path: Path) -> None:
    hf(group_size=32)(nvfp4)
    with pytest.raises(DsvError, match=r"hf_quant_config\.json contradicts"):
        quantize_checkpoint(nvfp4, tmp_path / "out")
    assert not (tmp_path / "out").exists()
