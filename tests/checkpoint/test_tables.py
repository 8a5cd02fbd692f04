"""Tables of experts by token id: a number out of range, or one twice for a token, is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import small
from safetensors.torch import load_file, save_file

import dsv4c
from dsv4c.checkpoint.synth import synthesize
from dsv4c.errors import DsvError

DIMS = {"hidden_size": 64, "q_lora_rank": 32, "o_lora_rank": 32, "moe_intermediate_size": 96}
TABLE = "layers.0.ffn.gate.tid2eid"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ((1, 1), "different experts"),
        ((0, 6), "numbers from 0 to 5"),
        ((-1, 2), "numbers from 0 to 5"),
    ],
)
def test_a_row_that_kernels_cannot_take(
    tmp_path: Path, row: tuple[int, int], expected: str
) -> None:
    raw = small.small_config(num_hidden_layers=2, compress_ratios=[4, 0], **DIMS)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    model = tmp_path / "model"
    synthesize(str(tmp_path / "config.json"), model, [0, 1], 7, "bf16", "bf16")
    (file,) = [one for one in model.glob("*.safetensors") if TABLE in load_file(one)]
    tensors = load_file(file)
    tensors[TABLE][5, 0], tensors[TABLE][5, 1] = row
    save_file(tensors, file)
    with pytest.raises(DsvError) as refused:
        dsv4c.compile(model, tmp_path / "plan")
    assert refused.value.code == "DSV213"
    assert refused.value.expected == expected
    assert "row 5" in str(refused.value)
    assert not (tmp_path / "plan").exists()
