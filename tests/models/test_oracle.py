"""Compiled plans in exact mode against transformers in fp32: the whole model, every position."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import oracle
import pytest
import torch
from drive import in_parts, random_parts

import dsv4c
from dsv4c.evaluate import evaluate
from dsv4c.plan.plan import Plan
from dsv4c.tokenizer import Tokenizer

# Every kind first and last, 0 to 3 hash layers; scripts/parity.py runs many more.
CASES = (0, 5, 10, 15, 20, 25, 30, 35)
BOUND = 2e-4
TINY = Path(__file__).parents[3] / "shared" / "tiny-dsv4"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def exact(model: Path, folder: Path) -> Plan:
    return dsv4c.compile(model, folder, dtype="float32", kv_cache="f32")


def assert_close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max().item() <= BOUND
    assert torch.equal(got.argmax(-1), wanted.argmax(-1))


def test_cases_are_of_every_sort() -> None:
    cases = [oracle.case(number) for number in CASES]
    assert {case.kinds[0] for case in cases} == {case.kinds[-1] for case in cases}
    assert {case.kinds[0] for case in cases} == {"swa", "csa", "hca"}
    assert {case.hash_layers for case in cases} == {0, 1, 2, 3}
    csa = [case for case in cases if "csa" in case.kinds]
    entries = [case.tokens // case.rates[0] - case.fields["index_topk"] for case in csa]
    assert min(entries) <= 0 < max(entries)


@pytest.mark.parametrize("number", CASES)
def test_random_model_equals_transformers(number: int, tmp_path: Path) -> None:
    case = oracle.case(number)
    made, ids = oracle.model(case), oracle.tokens(case)
    oracle.save(made, tmp_path / "model")
    plan = exact(tmp_path / "model", tmp_path / "plan")
    wanted = oracle.logits(made, ids)
    assert_close(in_parts(plan, ids, [len(ids)]), wanted)
    assert_close(in_parts(plan, ids, random_parts(len(ids), number)), wanted)


def test_names_and_config_of_every_flavour_make_one_plan(tmp_path: Path) -> None:
    case = next(c for c in map(oracle.case, range(9, 99)) if c.rates == (4, 128))
    made, ids = oracle.model(case), oracle.tokens(case)
    oracle.save(made, tmp_path / "saved")
    oracle.save_modules(made, tmp_path / "modules")
    oracle.save_official(case, tmp_path / "saved", tmp_path / "official")
    plans = [exact(tmp_path / name, tmp_path / f"{name}.plan") for name in ("saved", "official")]
    plans.append(exact(tmp_path / "modules", tmp_path / "modules.plan"))
    logits = [in_parts(plan, ids, [len(ids)]) for plan in plans]
    assert_close(logits[0], oracle.logits(made, ids))
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])
    assert plans[0].manifest.schedule == plans[1].manifest.schedule == plans[2].manifest.schedule


@pytest.mark.skipif(not TINY.is_dir(), reason="needs the BF16 checkpoint tiny-dsv4")
def test_trained_model_equals_transformers(tmp_path: Path) -> None:
    plan = exact(TINY, tmp_path / "plan")
    ids = Tokenizer.load(TINY).encode((TINY / "eval.txt").read_text(encoding="utf-8"))[:301]
    wanted = oracle.logits(oracle.load(TINY), ids[:-1])
    assert_close(in_parts(plan, ids[:-1], [300]), wanted)
    nats = torch.nn.functional.cross_entropy(wanted.double(), torch.tensor(ids[1:])).item()
    result = evaluate(plan.session(max_sequences=1, max_tokens=300), ids, 300)
    assert result.tokens == 300
    assert result.nats_per_token == pytest.approx(nats, abs=1e-5)
