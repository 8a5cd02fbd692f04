"""What may be late is written by the kernel before, never a weight; runs on the CPU."""

from __future__ import annotations

import cases_moe_down
import pytest
import torch
from late import late_places


@pytest.mark.parametrize("shared", ["none", "fp8_128"])
def test_no_weight_of_the_experts_is_late(shared: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases_moe_down, "DEVICE", "cpu")
    monkeypatch.setattr(cases_moe_down.moe_data, "DEVICE", "cpu")
    case = next(
        one
        for one in cases_moe_down.cases()
        if one.name.startswith(f"tiny_nvfp4_{shared}_t3") and "_time" not in one.name
    )
    given = case.inputs(0)
    late = [given[i] for i in late_places("moe_down", case)]
    assert [one.dtype for one in late] == len(late) * [torch.bfloat16]
    assert len(late) == (1 if shared == "none" else 2)
