"""Candidates of the bundled model, measured. `scripts/build_gpu_plans.py` makes plan and folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
import torch

from dsv4c.plan.files import MANIFEST
from dsv4c.tune.apply import verdicts
from dsv4c.tune.folder import encode, read_folder
from dsv4c.tune.measure import measure_folder
from dsv4c.tune.results import Results, read_results
from dsv4c.tune.results import encode as encode_results

pytestmark = pytest.mark.gpu
BUILT = Path(__file__).parents[2] / ".build" / "gpu"
PLAN, FOLDER = BUILT / "plans" / "sm_90a", BUILT / "tune"


@pytest.fixture(scope="module")
def found() -> Results:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    return measure_folder(FOLDER, PLAN)


def test_every_candidate_gives_the_same_bits_and_has_a_time(found: Results) -> None:
    read = read_folder(FOLDER)
    assert [one.kernel for one in found.buckets] == [one.kernel for one in read.buckets]
    for bucket, row in zip(read.buckets, found.buckets, strict=True):
        assert [one.tokens for one in row.present] == bucket.tokens
        for one in (*row.present, *(each for c in row.candidates for each in c.measured)):
            assert one.problem == ""
            assert one.time is not None
            assert 0 < one.time.low <= one.time.us <= one.time.high < 1000
        assert all(each.beside for c in row.candidates for each in c.measured)


def test_the_results_can_be_kept_and_judged(found: Results, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(encode_results(found))
    assert read_results(path) == found
    assert len(verdicts(found)) == len(found.buckets)


def test_a_candidate_that_is_no_such_kernel_is_lost_alone(found: Results, tmp_path: Path) -> None:
    """The first bucket's first candidate becomes a kernel of another family."""
    folder = tmp_path / "tune"
    shutil.copytree(FOLDER, folder)
    read = read_folder(folder)
    kinds = [one.kind for one in read.buckets]
    strange = next(i for i, kind in enumerate(kinds) if kind != kinds[0])
    name = read.buckets[strange].candidates[0].name
    first = read.buckets[0]
    wrong = msgspec.structs.replace(first.candidates[0], name=name)
    bucket = msgspec.structs.replace(first, candidates=[wrong, *first.candidates[1:]])
    changed = msgspec.structs.replace(read, buckets=[bucket, *read.buckets[1:]])
    (folder / MANIFEST).write_bytes(encode(changed))
    rows = measure_folder(folder, PLAN).buckets
    lost = [one.problem for one in rows[0].candidates[0].measured]
    assert all(lost)
    others = [each for row in rows for one in row.candidates for each in one.measured]
    assert sum(bool(one.problem) for one in others) == len(lost)
