"""Plans whose random weights are made on loading."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from dsv4c import api
from dsv4c.cli import main
from dsv4c.errors import DsvError
from dsv4c.plan.plan import load_plan
from dsv4c.source import random_source, synthetic_source

MODEL = "examples/tiny-dsv4-nvfp4"
ROOT = Path(__file__).parents[2]


def logits(path: Path) -> torch.Tensor:
    session = load_plan(path).session(max_sequences=1, max_tokens=128)
    return session.prefill(session.open(), [5, 6, 7])


def test_it_computes_what_a_plan_that_stores_the_weights_does(tmp_path: Path) -> None:
    source = random_source(str(ROOT / MODEL), [1, 0], seed=7)
    api.compile_source(lambda: source, tmp_path / "made")
    raw = json.loads(str(source.files["config.json"]))
    api.compile_source(lambda: synthetic_source(raw, source.checkpoint), tmp_path / "stored")  # pyright: ignore
    assert not (tmp_path / "made" / "weights").exists()
    assert torch.equal(logits(tmp_path / "made"), logits(tmp_path / "stored"))


def test_another_seed_is_another_model(tmp_path: Path) -> None:
    found = []
    for seed in (0, 1):
        read = partial(random_source, str(ROOT / MODEL), [0], seed)
        api.compile_source(read, tmp_path / str(seed))
        found.append(logits(tmp_path / str(seed)))
    assert not torch.allclose(found[0], found[1])


def test_a_component_without_a_file_is_refused_in_other_plans(tmp_path: Path) -> None:
    api.compile_source(partial(random_source, str(ROOT / MODEL), [0]), tmp_path / "plan")
    path = tmp_path / "plan" / "manifest.json"
    content = json.loads(path.read_text())
    del content["synthetic"]
    path.write_text(json.dumps(content))
    with pytest.raises(DsvError) as caught:
        load_plan(tmp_path / "plan")
    assert caught.value.code == "DSV231"


def test_options_of_random_models_want_synthetic(tmp_path: Path) -> None:
    given = ["compile", str(ROOT / MODEL), "-o", str(tmp_path / "plan"), "--seed", "3"]
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 2
    assert "--seed goes with --synthetic only" in done.output


def test_compile_and_run(tmp_path: Path) -> None:
    plan = str(tmp_path / "plan")
    given = ["compile", str(ROOT / MODEL), "-o", plan, "--synthetic", "--layers", "0,1"]
    done = CliRunner().invoke(main, [*given, "--experts", "mxfp4", "--json"])
    assert done.exit_code == 0, done.output
    shown = CliRunner().invoke(main, ["inspect", plan, "weights", "--json"])
    formats = {one["format"] for one in json.loads(shown.output)["weights"]}
    assert "mxfp4" in formats
    assert logits(Path(plan)).isfinite().all()
