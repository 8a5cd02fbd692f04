"""`dsv4c diff`: what differs, and where two plans first compute something else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import dsv4c
from dsv4c.cli import main
from dsv4c.ir.op import OPS
from dsv4c.runtime import compare


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["diff", *map(str, words)], prog_name="dsv4c")


def document(*words: str | Path) -> dict[str, Any]:
    result = call(*words, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    made = json.loads(result.stdout)
    assert made["schema"] == "dsv4c.diff/1"
    return made


@pytest.fixture(scope="module")
def bf16(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plans") / "bf16"
    return dsv4c.compile(checkpoint, out, kv_cache="bf16").path


def test_a_plan_and_itself(plan: Path) -> None:
    made = document(plan, plan)
    assert made["equal"]
    assert (made["inputs"], made["nodes"]["changed"]) == ([], [])
    assert call(plan, plan).stdout.startswith("no difference\n")


def test_another_cache_format(plan: Path, bf16: Path) -> None:
    made = document(plan, bf16)
    assert not made["equal"]
    assert made["inputs"] == [{"what": "option kv_cache", "a": "fp8", "b": "bf16"}]
    assert made["nodes"]["only_a"] == made["nodes"]["only_b"] == []
    changed = {one["node"]: one for one in made["nodes"]["changed"]}
    inside = {one["what"]: one for one in changed["L1.attn.q"]["changes"]}
    assert inside["inside %L1.attn.indexer.q_fp4"]["a"].startswith("fake_quant(")
    assert inside["inside %L1.attn.indexer.q_fp4"]["b"] is None
    (change,) = changed["L2.attn.q"]["changes"]
    assert change["what"] == "results"
    assert "cache<fp8" in change["a"]
    assert "cache<bf16" in change["b"]
    sizes = {pair["what"]: (pair["a"], pair["b"]) for pair in made["bytes"]}
    assert sizes["state per 128 tokens"][0] < sizes["state per 128 tokens"][1]
    assert sizes["weights"][0] == sizes["weights"][1]
    assert made["schedule"]["first"] is None
    cost = {pair["what"]: (pair["a"], pair["b"]) for pair in made["cost"]}
    assert cost["decode: MB read"][0] < cost["decode: MB read"][1]


def test_layers_that_changed_alike_are_one_line(plan: Path, bf16: Path) -> None:
    text = call(plan, bf16).stdout
    lines = [line.split() for line in text.splitlines() if line.startswith("L*.attn.q ")]
    assert lines[0][:4] == ["L*.attn.q", "0,", "2", "results"]
    assert lines[1][:3] == ["L*.attn.q", "1", "results"]


def test_kernels_of_two_targets(checkpoint: Path) -> None:
    """Checkpoints are taken through the passes for the same target."""
    assert document(checkpoint, checkpoint, "--target", "sm_90a")["equal"]


def test_numeric_on_equal_plans(plan: Path) -> None:
    made = document(plan, plan, "--numeric", "--limit", "20")
    assert (made["ok"], made["first"], made["unequal"], made["tokens"]) == (True, None, 0, 20)
    assert made["values"] > 200
    text = call(plan, plan, "--numeric", "--prompt", "abc")
    assert text.exit_code == 0
    assert "not bit for bit" in text.stdout.splitlines()[-1]


def test_numeric_names_the_node(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_b = compare._Lockstep._run_b  # pyright: ignore[reportPrivateUsage]

    def wrong(self: Any, node: Any) -> Any:
        if node.name != "L1.ffn.y":
            return run_b(self, node)
        spec = OPS["combine"]

        def doubled(*operands: Any, **attrs: Any) -> Any:
            return 2 * spec.reference(*operands, **attrs)

        with monkeypatch.context() as patch:
            patch.setitem(OPS, "combine", replace(spec, reference=doubled))
            return run_b(self, node)

    monkeypatch.setattr(compare._Lockstep, "_run_b", wrong)  # pyright: ignore
    result = call(plan, plan, "--numeric", "--limit", "8", "--json")
    assert result.exit_code == 6
    first = json.loads(result.stdout)["first"]
    assert (first["node"], first["layer"], first["step"]) == ("L1.ffn.y", 1, 1)
    assert first["ratio"] > 1
    assert "first: %L1.ffn.y, made by %L1.ffn.y (fused.moe_down, run by reference)" in result.stderr
    assert f"dsv4c repro {plan} L1.ffn.y -o DIR" in result.stderr


def test_usage(plan: Path, bf16: Path) -> None:
    assert "A text is for --numeric." in call(plan, plan, "--prompt", "x").stderr
    two = call(plan, plan, "--numeric", "--prompt", "x", "--text", plan / "config.json")
    assert "Give one of --prompt, --text and --tokens." in two.stderr
    assert (two.exit_code, call(plan, plan / "absent").exit_code) == (2, 3)
    types = call(plan, bf16, "--numeric")
    assert types.exit_code == 2
    assert types.stderr.startswith("DSV101: the plans' values have other types")
