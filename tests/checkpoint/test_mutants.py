"""A sample of the broken checkpoints of scripts/mutants.py: refused, or without harm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import flavours
import pytest
import torch
from judge import digest_of, judge
from mutations import mutants
from sound import Sound

from dsv4c.checkpoint.quantize import quantize_checkpoint
from dsv4c.checkpoint.reader import Checkpoint
from dsv4c.models.deepseek_v4.config import load_config
from dsv4c.models.deepseek_v4.names import read_ledger

# Of about 10,000: every so manieth, beginning at another one in each flavour.
EVERY = 71


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small matrices are slower on more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("flavour", "first"), list(zip(flavours.FLAVOURS, range(6), strict=True)))
def test_a_sample_of_the_mutants(flavour: str, first: int, tmp_path: Path) -> None:
    folder = flavours.FLAVOURS[flavour](tmp_path / "sound")
    quantize_checkpoint(folder, tmp_path / "expected", *flavours.TARGETS[flavour])
    opened = Checkpoint.open(folder)
    ignored = read_ledger(load_config(folder), opened).ignored
    sound = Sound(folder, set(opened.tensors) - set(ignored), seed=1)
    digest, outcomes = digest_of(tmp_path / "expected"), Counter[str]()
    for mutant in islice(mutants(sound), first, None, EVERY):
        verdict = judge(flavour, folder, digest, mutant, tmp_path / "work")
        assert verdict.outcome != "bad", (mutant.kind, mutant.what, verdict.text)
        outcomes[verdict.outcome] += 1
    assert outcomes["refused"] >= 12
