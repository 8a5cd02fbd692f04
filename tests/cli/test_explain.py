"""`dsv4c explain` on a small plan: every kind of thing, both ways, and names that are nothing."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import dsv4c
from dsv4c.cli import main
from dsv4c.error_pages import PAGES
from dsv4c.errors import CODES, DsvError


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["explain", *map(str, words)], prog_name="dsv4c")


def document(*words: str | Path) -> dict[str, Any]:
    result = call(*words, "--json")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    made = json.loads(result.stdout)
    assert made["schema"] == "dsv4c.explain/1"
    return made


def test_a_fused_node(plan: Path) -> None:
    made = document(plan, "L1.attn.z")
    assert (made["kind"], made["op"], made["inside"]) == ("node", "fused.inverse_rope_wo_a", None)
    assert made["origin"]["tensors"] == ["layers.1.attn.wo_a.weight"]
    assert made["origin"]["built"] == ["L1.attn.o_unroped", "L1.attn.o_groups", "L1.attn.z"]
    assert [part["kind"] for part in made["body"]] == ["rope", "view", "grouped_linear"]
    assert [one["made_by"] for one in made["operands"]] == ["L1.attn.o", "L0.attn.angles", None]
    assert made["results"][0]["used_by"] == ["L1.attn.y"]
    (applied,) = made["remarks"]
    assert (applied["rule"], applied["status"]) == ("fuse_inverse_rope_wo_a", "applied")
    assert made["templates"] == [
        {
            "template": "",
            "taken": False,
            "reason": "the target cpu runs every node by its reference",
        }
    ]


def test_a_value_inside_a_fused_node_leads_to_it(plan: Path) -> None:
    made = document(plan, "%L1.attn.scores")
    assert (made["name"], made["inside"]) == ("L1.attn.o", "L1.attn.scores")
    text = call(plan, "L1.attn.scores").stdout
    assert text.startswith("%L1.attn.scores exists only inside the fused node %L1.attn.o\n")


def test_a_node_that_layers_share_belongs_to_all_of_them(plan: Path) -> None:
    origin = document(plan, "L0.attn.window_slot")["origin"]
    assert (origin["layer"], origin["layers"], origin["inputs"]) == (
        None,
        [0, 1, 2],
        ["pos", "slot", "block_table"],
    )


def test_a_value_that_a_pass_removed(plan: Path) -> None:
    made = document(plan, "L2.attn.window_slot")
    assert (made["kind"], made["first_seen"]) == ("gone", "model")
    assert made["removed_by"] == "common_subexpressions"
    assert made["replaced_by"] == "L0.attn.window_slot"
    assert [remark["text"] for remark in made["remarks"]] == ["serves 3 uses"]


def test_weights_and_tensors_lead_to_each_other(plan: Path) -> None:
    weight = document(plan, "layers.1.ffn.experts.w2")
    assert weight["tensors"] == ["layers.1.ffn.experts.{0..3}.w2.weight"]
    assert [part["name"] for part in weight["used_by"]] == ["L1.ffn.down"]
    for tensor in ("layers.1.ffn.experts.{0..3}.w2.weight", "layers.1.ffn.experts.3.w2.weight"):
        assert document(plan, tensor) == weight
    assert call(plan, "layers.1.ffn.experts.4.w2.weight").exit_code == 2
    inside = document(plan, "layers.1.attn.attn_sink")
    assert [part["name"] for part in inside["used_by"]] == ["L1.attn.probs"]


def test_states_and_places(plan: Path) -> None:
    window = document(plan, "L1.attn.window")
    assert window["versions"] == ["L1.attn.window", "L1.attn.window.1"]
    assert (window["written_by"], window["read_by"]) == (["L1.attn.q"], ["L1.attn.o"])
    node = document(plan, "L1.attn.z")
    offset = node["results"][0]["offset"]
    for name in (f"offset:{offset}", str(offset + 1)):
        stays = document(plan, name)["values"]
        assert "L1.attn.z" in [stay["value"] for stay in stays]
        ends = [(stay["first"], stay["last"]) for stay in stays]
        assert all(last < first for (_, last), (first, _) in pairwise(ends))


def test_rules_and_templates(plan: Path) -> None:
    rule = document(plan, "fuse_gather_gemm")
    assert rule["source"] == "dsv4c/passes/fuse_gather_gemm.py"
    assert (rule["applied"], rule["refused"], rule["warnings"]) == (3, 0, [])
    assert rule["passes"][0]["candidates"] == 3
    assert sum(group["count"] for group in rule["groups"]) == 3
    assert document(plan, "merge_equal")["passes"][0]["name"] == "common_subexpressions"
    template = document(plan, "sparse_attention")
    assert (template["kind"], template["nodes"]) == ("template", 3)


def test_a_checkpoint_is_explained_without_compiling_it(checkpoint: Path) -> None:
    made = document(checkpoint, "L1.attn.o", "--target", "sm_90a")
    (template,) = made["templates"]
    assert (template["template"], template["taken"]) == ("sparse_attention", False)
    assert "512" in template["reason"]
    assert made["runs_on"] == "reference"


def test_a_refusal_names_its_guard(checkpoint: Path) -> None:
    refused = document(checkpoint, "lower", "--target", "sm_90a")
    assert refused["refused"] > 9
    assert any("got" in one["text"] or "128" in one["text"] for one in refused["groups"])


def test_names_that_are_nothing_lead_to_near_ones(plan: Path) -> None:
    result = call(plan, "L1.attn.zz")
    assert result.exit_code == 2
    assert result.stderr.startswith("DSV101: there is nothing of this name")
    assert "did you mean L1.attn.z or " in result.stderr


@pytest.mark.parametrize(
    "name",
    [
        *("L1.attn.z", "L2.attn.window_slot", "layers.0.attn.wq_a", "L1.attn.window", "offset:0"),
        *("pos", "fuse_gather_gemm", "dead_code", "sparse_attention"),
    ],
)
def test_everything_has_a_text(plan: Path, name: str) -> None:
    result = call(plan, name)
    assert (result.exit_code, result.stderr) == (0, "")
    assert name.split(".")[0] in result.stdout


@pytest.mark.parametrize("code", CODES)
def test_every_error_code_has_a_page(code: str) -> None:
    made = document(code.lower())
    assert (made["name"], made["meaning"]) == (code, CODES[code])
    assert made["exit_code"] == DsvError(code, "x").exit_code
    assert made["cause"].endswith(".")
    assert made["remedy"].endswith(".")
    text = call(code).stdout
    assert text.startswith(f"{code}: {CODES[code]} (exit code ")


def test_pages_and_codes_agree_and_every_code_is_used() -> None:
    assert list(PAGES) == list(CODES)
    assert dsv4c.__file__
    package = Path(dsv4c.__file__).parent
    tables = {package / "errors.py", package / "error_pages.py"}
    files = [path for path in package.rglob("*.py") if path not in tables]
    used = {code for path in files for code in re.findall(r'"(DSV\d{3})"', path.read_text())}
    assert used == set(CODES)


def test_a_plan_alone_is_not_enough(plan: Path) -> None:
    result = call(plan)
    assert result.exit_code == 2
    assert "Give a plan and a name of something in it, or an error code." in result.stderr
