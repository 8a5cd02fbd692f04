"""The commands on a small random checkpoint: documents, text, exit codes."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import dsv4c
from dsv4c.cli import main
from dsv4c.cli.inspect import VIEWS
from dsv4c.runtime import check
from dsv4c.tokenizer import Tokenizer


def call(*words: str | Path, text: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="dsv4c", input=text)


def document(*words: str | Path) -> dict[str, Any]:
    result = call(*words, "--json")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return json.loads(result.stdout)


def test_compile_accounts_for_fusions_and_time(checkpoint: Path, tmp_path: Path) -> None:
    made = document("compile", checkpoint, "-o", tmp_path / "plan", "--target", "cpu")
    assert made["schema"] == "dsv4c.compile/1"
    assert (made["model"], made["target"]) == ("random-dsv4", "cpu")
    rules = {rule["rule"]: (rule["applied"], rule["refused"]) for rule in made["rules"]}
    assert rules["fuse_qnorm_rope_quant"] == (3, 0)
    assert rules["fuse_gather_gemm"] == (3, 0)
    assert rules["fuse_inverse_rope_wo_a"] == (3, 0)
    assert made["kernels"] == []
    assert {phase["phase"] for phase in made["phases"]} >= {
        *("pass 01 canonicalize", "passes, the rest", "write ir", "weights", "start and end")
    }
    assert all(phase["seconds"] >= 0 for phase in made["phases"])
    total = sum(phase["seconds"] for phase in made["phases"])
    assert total == pytest.approx(made["seconds"], abs=1e-3)


def test_compile_prints_tables(checkpoint: Path, tmp_path: Path) -> None:
    result = call("compile", checkpoint, "-o", tmp_path / "plan", "--target", "cpu")
    assert result.exit_code == 0
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0] == f"{tmp_path / 'plan'}: random-dsv4 for cpu"
    assert [line for line in lines if line in ("fusions", "kernels", "time")] == [
        "fusions",
        "kernels",
        "time",
    ]
    assert lines[-1].startswith("total ")


def test_compile_refuses_a_folder_that_is_no_plan(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    result = call("compile", checkpoint, "-o", tmp_path, "--target", "cpu")
    assert result.exit_code == 2
    assert result.stderr.startswith("DSV102: ")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_compile_of_nothing_leaves_nothing(tmp_path: Path) -> None:
    result = call("compile", tmp_path / "absent", "-o", tmp_path / "plan")
    assert result.exit_code == 3
    assert result.stderr.startswith("DSV201: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("view", VIEWS)
def test_inspect_shows_every_view_as_text_and_json(plan: Path, checkpoint: Path, view: str) -> None:
    for subject in (plan, checkpoint):
        shown = document("inspect", subject, view, "--target", "cpu")
        assert (shown["schema"], shown["view"]) == ("dsv4c.inspect/1", view)
        text = call("inspect", subject, view, "--target", "cpu")
        assert text.exit_code == 0
        assert text.stdout


def test_inspect_counts_what_runs_on_torch(plan: Path) -> None:
    shown = document("inspect", plan)
    graph = dsv4c.load_plan(plan).graph
    fused = sum(node.body is not None for node in graph.nodes)
    assert (shown["layers"], shown["nodes"], shown["fused_nodes"]) == (3, len(graph.nodes), fused)
    nodes = sum(node.op != "view" for node in graph.nodes)
    assert (shown["kernel_nodes"], shown["reference_nodes"]) == (0, nodes)
    kernels = document("inspect", plan, "kernels")
    assert sum(one["nodes"] for one in kernels["reference"]) == nodes
    assert kernels["graphs"] is False


def test_inspect_selects_layers_nodes_and_stages(plan: Path) -> None:
    nodes = document("inspect", plan, "ir", "--layer", "1", "--node", "fused.*")["nodes"]
    kinds = [node["kind"] for node in nodes]
    wanted = ["qnorm_rope_kv_insert", "sparse_attention", "inverse_rope_wo_a"]
    assert [kind for kind in kinds if kind.removeprefix("fused.") in wanted] == [
        f"fused.{kind}" for kind in wanted
    ]
    assert all(kind.startswith("fused.") for kind in kinds)
    assert {node["layer"] for node in nodes} == {1}
    built = document("inspect", plan, "ir", "--stage", "model")
    assert built["stage"] == "model"
    assert not any(node["kind"].startswith("fused.") for node in built["nodes"])
    assert document("inspect", plan, "ir", "--stage", "lower")["stage"] == "lowered"


def test_inspect_names_the_stages_that_there_are(plan: Path) -> None:
    result = call("inspect", plan, "--stage", "melted")
    assert result.exit_code == 2
    assert "model, fused, lowered, planned" in result.stderr


def test_inspect_of_neither(tmp_path: Path) -> None:
    result = call("inspect", tmp_path)
    assert result.exit_code == 3
    assert "a folder with manifest.json or config.json" in result.stderr


def test_run_is_the_same_from_text_and_tokens(plan: Path, tmp_path: Path) -> None:
    text = "And it came to pass."
    (tmp_path / "text").write_text(text)
    ids = Tokenizer.load(plan).encode(text)
    (tmp_path / "list").write_text(json.dumps(ids))
    (tmp_path / "plain").write_text("\n".join(map(str, ids)))
    given = document("run", plan, "--prompt", text)
    assert given["schema"] == "dsv4c.run/1"
    assert given["tokens"] == len(text)
    assert given["nats_per_token"] == pytest.approx(math.log(given["perplexity"]))
    assert 4 < given["nats_per_token"] < 8  # an untrained model: about log(260)
    assert document("run", plan, "--text", tmp_path / "text") == given
    assert document("run", plan, "--tokens", tmp_path / "list") == given
    assert document("run", plan, "--tokens", tmp_path / "plain") == given


def test_run_cuts_windows_and_stops_at_the_limit(plan: Path) -> None:
    text = "In the beginning"
    cut = document("run", plan, "--prompt", text, "--window", "8", "--limit", "12")
    assert cut["tokens"] == 12
    session = dsv4c.load_plan(plan).session(1, 16)
    ids = Tokenizer.load(plan).encode(text)[:13]
    nats = 0.0
    for begin, end in ((0, 8), (8, 12)):
        slot = session.open()
        logits = session.prefill(slot, ids[begin:end], return_logits="all")
        session.close(slot)
        rows = range(end - begin)
        nats -= float(logits.double().log_softmax(-1)[rows, ids[begin + 1 : end + 1]].sum())
    assert cut["nats_per_token"] == pytest.approx(nats / 12, abs=1e-6)


def test_run_check_reports_every_kind(plan: Path) -> None:
    checked = document("run", plan, "--prompt", "abc", "--check")
    assert checked["ok"] is True
    assert checked["first"] is None
    nodes = len(dsv4c.load_plan(plan).graph.nodes)
    assert checked["checks"] == len(checked["nodes"]) == 2 * nodes  # a prefill and a decode step
    assert sum(kind["checks"] for kind in checked["kinds"]) == checked["checks"]
    ratios = [kind["ratio"] for kind in checked["kinds"]]
    assert ratios == sorted(ratios, reverse=True)


@pytest.mark.parametrize(
    ("content", "found"), [("12 x", "'x'"), ("[1, {}]", "dict"), ("[1,", "Expecting")]
)
def test_run_refuses_what_are_no_tokens(
    plan: Path, tmp_path: Path, content: str, found: str
) -> None:
    (tmp_path / "tokens").write_text(content)
    result = call("run", plan, "--tokens", tmp_path / "tokens")
    assert result.exit_code == 3
    assert result.stderr.startswith("DSV241: ")
    assert found in result.stderr


def test_run_refuses_ids_out_of_range(plan: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("5 260 7")
    result = call("run", plan, "--tokens", tmp_path / "tokens")
    assert result.exit_code == 3
    assert "DSV241" in result.stderr


def test_generate_prints_the_continuation(plan: Path) -> None:
    made = document("generate", plan, "abc", "--max-new-tokens", "12")
    assert made["schema"] == "dsv4c.generate/1"
    assert made["text"] == Tokenizer.load(plan).decode(made["tokens"])
    plain = call("generate", plan, "abc", "--max-new-tokens", "12")
    assert plain.stdout == made["text"] + "\n"
    echoed = call("generate", plan, "abc", "--max-new-tokens", "12", "--echo")
    assert echoed.stdout == "abc" + made["text"] + "\n"
    piped = call("generate", plan, "--max-new-tokens", "12", text="abc")
    assert piped.stdout == made["text"] + "\n"


def test_generate_repeats_with_a_seed(plan: Path) -> None:
    words = ("generate", plan, "abc", "--temperature", "1.5", "--max-new-tokens", "16")
    first, again, other = (document(*words, "--seed", seed) for seed in ("3", "3", "4"))
    assert first["tokens"] == again["tokens"]
    assert first["tokens"] != other["tokens"]


def test_quantize_reports_each_class(checkpoint: Path, tmp_path: Path) -> None:
    made = document("quantize", checkpoint, tmp_path / "small", "--experts", "mxfp4")
    assert made["schema"] == "dsv4c.quantize/1"
    classes = {one["weights"]: one for one in made["classes"]}
    assert classes["routed experts"]["format"] == "mxfp4"
    assert classes["routed experts"]["bytes_after"] < classes["routed experts"]["bytes_before"]
    assert classes["kept"]["relative_error"] == 0
    again = call("quantize", checkpoint, tmp_path / "small")
    assert again.exit_code == 2
    assert again.stderr.startswith("DSV102: ")


def test_the_weights_of_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    shown = document("inspect", checkpoint, "weights")
    assert shown["missing"] == shown["unused"] == []
    classes = {(one["name"], one["format"]): one for one in shown["classes"]}
    assert classes["routed experts", "bf16"]["tensors"] == 3 * 3 * 4
    text = call("inspect", checkpoint, "weights", "--layer", "1").stdout
    assert "layers.1.ffn.experts.0.w1.weight, " in text
    assert "and 0 more" not in text
    broken_copy = Path(shutil.copytree(checkpoint, tmp_path / "broken"))
    config = json.loads((broken_copy / "config.json").read_text()) | {"num_hidden_layers": 2}
    config |= {"compress_ratios": [128, 4]}
    (broken_copy / "config.json").write_text(json.dumps(config))
    result = call("inspect", broken_copy, "weights")
    assert result.exit_code == 3
    assert result.stderr.startswith("DSV212: ")
    assert "unknown: " in result.stdout
    assert "layers.2.attn.wkv.weight" in result.stdout


def test_an_edited_plan_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    dsv4c.compile(checkpoint, plan)
    with (plan / "config.json").open("a") as file:
        file.write(" ")
    for words in (("inspect", plan), ("generate", plan, "x"), ("run", plan, "--prompt", "x")):
        result = call(*words)
        assert result.exit_code == 3
        assert result.stderr.startswith("DSV232: ")
        assert "config.json" in result.stderr


@pytest.mark.parametrize(
    ("ratio", "told"), [(3.5, "ratio 3.5"), (math.inf, "another pattern of NaN or infinity")]
)
def test_run_check_names_the_first_node_beyond_its_bound(
    plan: Path, monkeypatch: pytest.MonkeyPatch, ratio: float, told: str
) -> None:
    def found(session: object, ids: list[int]) -> list[check.NodeCheck]:
        good = check.NodeCheck("L0.x", "linear", "reference", 0, 1, 0.5, "L0.x")
        return [good, check.NodeCheck("L1.y", "rope", "rope_k", 1, 1, ratio, "L1.y")]

    monkeypatch.setattr(check, "check", found)
    result = call("run", plan, "--prompt", "abc", "--check")
    assert result.exit_code == 6
    assert "DSV501: 1 of 2 results are beyond their bound" in result.stderr
    assert "first: %L1.y of rope, run by rope_k, layer 1, step 1" in result.stderr
    assert told in result.stderr
    assert result.stdout.splitlines()[1].startswith("rope ")


def test_inspect_events_add_up(plan: Path) -> None:
    view = document("inspect", plan, "events")
    kinds = {event["kind"] for event in view["events"]}
    assert {"log", "phase_begin", "phase_end", "pass", "remark", "summary"} <= kinds
    (summary,) = [event for event in view["events"] if event["kind"] == "summary"]
    total = sum(phase["seconds"] for phase in view["phases"])
    assert total == pytest.approx(summary["fields"]["seconds"], abs=1e-3)
    chosen = document("inspect", plan, "events", "--node", "fuse_gather_gemm", "--layer", "1")
    (event,) = chosen["events"]
    assert (event["kind"], event["fields"]["node"]) == ("remark", "L1.attn.o")
