"""`dsv4c repro` and `dsv4c run --nan-guard`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from dsv4c.cli import main
from dsv4c.runtime.executor import Executor


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="dsv4c")


def test_repro_of_a_node(plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "case"
    result = call("repro", plan, "%L1.attn.z", "-o", out, "--prompt", "abc", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    made = json.loads(result.stdout)
    assert made["schema"] == "dsv4c.repro/1"
    assert (made["node"], made["runs_on"], made["tokens"]) == ("L1.attn.z", "reference", 4)
    assert made["files"] == sorted(path.name for path in out.iterdir())
    text = call("repro", plan, "L1.attn.z", "-o", out, "--limit", "5")
    assert text.stdout.splitlines() == [
        f"{out}: %L1.attn.z, run by reference, operands of 5 tokens",
        f"python {out}/run.py",
    ]


def test_repro_of_nothing(plan: Path, tmp_path: Path) -> None:
    result = call("repro", plan, "L1.attn.zz", "-o", tmp_path / "case")
    assert result.exit_code == 2
    assert result.stderr.startswith("DSV101: the plan has no such node or kernel")
    assert "did you mean L1.attn.z or " in result.stderr
    assert not (tmp_path / "case").exists()


def test_nan_guard_on_a_right_plan(plan: Path, tmp_path: Path) -> None:
    words = ("run", plan, "--prompt", "abcdef", "--nan-guard", "--save", tmp_path / "saved")
    assert call(*words).stdout == "7 tokens, every value is finite\n"
    made = json.loads(call(*words, "--json").stdout)
    assert (made["ok"], made["first"], made["saved"]) == (True, None, None)
    assert not (tmp_path / "saved").exists()


def test_nan_guard_names_the_node_and_saves_it(
    plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Executor.run

    def wrong(self: Executor, node: Any, operands: Any, sizes: Any) -> Any:
        results = run(self, node, operands, sizes)
        if node.name == "L2.ffn.act":
            made = results[0]
            assert isinstance(made, torch.Tensor)
            made[2, 1, 5] = torch.nan
        return results

    monkeypatch.setattr(Executor, "run", wrong)
    saved = tmp_path / "saved"
    words = ("run", plan, "--prompt", "abcdef", "--nan-guard", "--save", saved)
    result = call(*words, "--json")
    assert result.exit_code == 6
    first = json.loads(result.stdout)["first"]
    assert (first["node"], first["layer"], first["kind"]) == ("L2.ffn.act", 2, "fused.moe_gate_up")
    assert (first["slot"], first["position"], first["index"]) == (0, 2, [2, 1, 5])
    assert "DSV502: 1 elements are not finite" in result.stderr
    assert "layer 2, step 1, sequence 0, position 2" in result.stderr
    assert f"python {saved}/run.py runs the node alone" in result.stderr
    assert json.loads((saved / "case.json").read_text())["node"] == "L2.ffn.act"


def test_check_and_nan_guard_exclude_each_other(plan: Path) -> None:
    result = call("run", plan, "--prompt", "a", "--check", "--nan-guard")
    assert result.exit_code == 2
    assert "Give one of --check and --nan-guard." in result.stderr
