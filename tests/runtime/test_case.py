"""A node cut out of a run: the folder runs alone, agrees with the reference, and notices errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from dsv4c.errors import DsvError
from dsv4c.ir.text import parse
from dsv4c.plan.plan import Plan
from dsv4c.runtime import standalone
from dsv4c.runtime.case import capture, reference_run, write_case

Tokens = Callable[[int, int], list[int]]
NODES = [
    *("streams", "L1.attn.q", "L2.attn.o", "L1.attn.q_latent", "L0.attn.indexer.scores"),
    *("L0.attn.q_latent", "L1.ffn.experts", "L1.ffn.y", "head.logits"),
]


def cut(plan: Plan, node: str, out: Path, ids: list[int], decode: bool = False) -> Path:
    write_case(out, plan, capture(plan.session(1, 256), node, ids, decode))
    return out


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "run.py"), *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder.parent, env=env
    )


def worst(folder: Path) -> float:
    """What run.py finds, without a process of its own."""
    case = json.loads((folder / "case.json").read_text())
    inputs = load_file(folder / "inputs.safetensors")
    expected = load_file(folder / "expected.safetensors")
    text = (folder / "node.ir").read_text()
    results = reference_run(text, [inputs[name] for name in case["arguments"]])()
    return max(
        standalone.judge(result, results[number], expected, number)
        for number, result in enumerate(case["results"])
    )


@pytest.mark.parametrize("kv_cache", ["f32", "fp8"])
@pytest.mark.parametrize("node", NODES)
def test_every_kind_of_node_runs_alone(
    node: str, kv_cache: str, plan_for: Callable[[str], Plan], tokens: Tokens, tmp_path: Path
) -> None:
    folder = cut(plan_for(kv_cache), node, tmp_path / "case", tokens(140, 0))
    assert worst(folder) <= 1
    graph = parse((folder / "node.ir").read_text())
    assert [one.name for one in graph.nodes] == [node]


@pytest.mark.parametrize("kv_cache", ["f32", "bf16", "fp8"])
@pytest.mark.parametrize("node", ["L2.attn.q", "L0.attn.q_latent", "L1.ffn.experts", "L1.ffn.y"])
def test_an_error_is_noticed(
    node: str, kv_cache: str, plan_for: Callable[[str], Plan], tokens: Tokens, tmp_path: Path
) -> None:
    folder = cut(plan_for(kv_cache), node, tmp_path / "case", tokens(140, 0))
    inputs = load_file(folder / "inputs.safetensors")
    case = json.loads((folder / "case.json").read_text())
    for name in case["arguments"]:
        if inputs[name].dtype in (torch.bfloat16, torch.float32) and inputs[name].dim() < 3:
            inputs[name] = 1.5 * inputs[name].flip(-1)
            break
    save_file(inputs, folder / "inputs.safetensors")
    assert worst(folder) > 1


def test_the_script(plan: Plan, tokens: Tokens, tmp_path: Path) -> None:
    folder = cut(plan, "L1.attn.q", tmp_path / "case", tokens(30, 0), decode=True)
    done = run(folder, "--repeat", "2")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "node    %L1.attn.q (fused.qnorm_rope_kv_insert), layer 1"
    assert lines[1] == "runs    torch reference"
    assert [line.split(":")[0] for line in lines[2:4]] == [
        "result  %L1.attn.q",
        "result  %L1.attn.window.1",
    ]
    assert lines[4].endswith(" ms, median of 2")
    assert lines[5] == "within every bound"
    expected = load_file(folder / "expected.safetensors")
    expected["result0"] = expected["result0"] + 1
    save_file(expected, folder / "expected.safetensors")
    done = run(folder, "--repeat", "1")
    assert done.returncode == 6
    assert done.stdout.splitlines()[-1] == "BEYOND ITS BOUND"


def on_gpu(plan: Plan, tmp_path: Path) -> Plan:
    """The plan as if node L1.attn.q ran by a kernel."""
    root = tmp_path / "plan"
    (root / "kernels" / "norm").mkdir(parents=True)
    (root / "kernels" / "norm" / "source.py").write_text("# the source\n")
    (root / "kernels" / "library.so").write_bytes(b"library")
    nodes = [replace(n, impl="norm") if n.name == "L1.attn.q" else n for n in plan.graph.nodes]
    read = msgspec.structs.replace(plan.manifest, target="sm_90a", library="kernels/library.so")
    return Plan(root, read, plan.graph.with_nodes(nodes))


@pytest.mark.skipif(torch.cuda.is_available(), reason="looks at a machine without a GPU")
def test_a_kernel_says_what_is_missing_where_it_cannot_run(
    plan: Plan, tokens: Tokens, tmp_path: Path
) -> None:
    gpu = on_gpu(plan, tmp_path)
    captured = capture(plan.session(1, 64), "L1.attn.q", tokens(30, 0), decode=False)
    folder = tmp_path / "case"
    write_case(folder, gpu, captured, plan)
    names = {path.name for path in folder.iterdir()}
    assert names == {"run.py", "case.json", "node.ir", "source.py", "library.so"} | {
        "inputs.safetensors",
        "expected.safetensors",
    }
    done = run(folder)
    assert done.returncode == 7
    assert done.stdout == "missing: a GPU of compute capability 9.0 (sm_90a)\n"


def test_a_plan_for_a_gpu_has_a_twin_on_references(plan: Plan, tmp_path: Path) -> None:
    twin = on_gpu(plan, tmp_path).reference()
    assert (twin.target, twin.manifest.library) == ("cpu", None)
    assert {node.impl for node in twin.graph.nodes} == {"reference"}


def test_other_folders_are_left_alone(plan: Plan, tokens: Tokens, tmp_path: Path) -> None:
    cut(plan, "L1.ffn.y", tmp_path / "case", tokens(4, 0))
    cut(plan, "L1.ffn.y", tmp_path / "case", tokens(5, 0))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    with pytest.raises(DsvError, match="DSV102"):
        cut(plan, "L1.ffn.y", tmp_path / "other", tokens(4, 0))
    assert [path.name for path in tmp_path.glob("other/*")] == ["file"]
