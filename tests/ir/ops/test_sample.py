"""Sampling: the rules one by one, Philox against published numbers, frequencies against softmax."""

from __future__ import annotations

import math

import pytest
import torch

from dsv4c.ir.op import OPS
from dsv4c.ir.ops.sample import exp2_weights, philox, sample_row
from dsv4c.ir.values import CONTEXTS

NAN, INF = math.nan, math.inf


def draw(
    logits: list[float],
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    count: int = 1,
) -> list[int]:
    values = torch.tensor(logits)
    return [sample_row(values, temperature, top_k, top_p, [7, -9], i) for i in range(count)]


def test_philox_of_the_paper() -> None:
    """The first words of Random123's known answers; only counters (x, 0, 0, 0) are used here."""
    assert philox(0, 0, 0) == 0x6627E8D5
    assert len({philox(1, 2, position) for position in range(1000)}) == 1000


@pytest.mark.parametrize("temperature", [0.0, -1.0, NAN])
def test_greedy_takes_the_lowest_of_equals(temperature: float) -> None:
    assert draw([1.0, 3.0, 3.0, 2.0], temperature) == [1]
    assert draw([-0.0, 0.0], temperature) == [0]
    assert draw([NAN, 1.0, INF, INF, NAN], temperature) == [2]
    assert draw([-INF, -5.0], temperature) == [1]


def test_greedy_rows_of_a_batch() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0], [-0.0, 0.0, -1.0], [NAN, INF, INF], [NAN, -INF, NAN]])
    logits = logits.repeat(1, 50)
    none, rows = torch.zeros(4), torch.zeros(4, dtype=torch.int32)
    operands = logits, none, rows, none, torch.zeros(4, 2, dtype=torch.int32), rows
    found = OPS["sample"].reference(CONTEXTS["plan"], *operands)
    assert isinstance(found, torch.Tensor)
    assert (found.dtype, found.tolist()) == (torch.int32, [1, 0, 1, 0])


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_nothing_to_choose_from_gives_token_0(temperature: float) -> None:
    assert draw([NAN, -INF, NAN], temperature) == [0]


def test_what_cannot_be_chosen_is_not() -> None:
    found = draw([NAN, 1.0, -INF, 1.1, NAN], count=200)
    assert {*found} == {1, 3}
    assert {*draw([0.0, INF, 1.0], count=50)} == {1}


def test_top_k_keeps_the_lowest_of_equals() -> None:
    assert {*draw([1.0, 2.0, 1.0, 1.0], top_k=3, count=300)} == {0, 1, 2}
    assert {*draw([1.0, 2.0, 1.0], temperature=5.0, top_k=1, count=50)} == {1}
    assert {*draw([0.0, 0.1, 0.2], top_k=9, count=200)} == {0, 1, 2}


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    logits = [math.log(p) for p in (0.2, 0.4, 0.1, 0.3)]
    for top_p, kept in ((0.39, {1}), (0.5, {1, 3}), (0.75, {0, 1, 3}), (0.95, {0, 1, 2, 3})):
        assert {*draw(logits, top_p=top_p, count=400)} == kept
    assert {*draw(logits, top_p=0.0, count=50)} == {1}
    assert {*draw(logits, top_p=NAN, count=50)} == {1}
    # Of equal ones the lowest indices; after top-k, of what that kept.
    assert {*draw([0.0] * 8, top_p=0.5, count=300)} == {0, 1, 2, 3}
    assert {*draw([0.0] * 8, top_k=4, top_p=0.5, count=300)} == {0, 1}


def test_frequencies_are_those_of_softmax() -> None:
    logits = torch.tensor([0.3, -1.0, 2.0, 0.9, -3.0])
    probs = (logits.double() / 0.8).softmax(0)
    count = 20000
    found = torch.bincount(torch.tensor(draw(logits.tolist(), 0.8, count=count)), minlength=5)
    deviation = (count * probs * (1 - probs)).sqrt()
    assert ((found - count * probs).abs() < 4 * deviation).all()


@pytest.mark.parametrize("temperature", [1e-30, 1e-45, INF])
def test_extreme_temperatures(temperature: float) -> None:
    found = {*draw([1.0, 1.5, -INF, 1.5], temperature, count=100)}
    assert found == ({0, 1, 3} if temperature == INF else {1, 3})


def test_weights_are_floors_of_powers_of_two() -> None:
    assert exp2_weights(torch.tensor([0.0, -1.0, -31.0, -31.5, -INF])).tolist() == [
        *(1 << 31, 1 << 30, 1, 0, 0)
    ]
    x = -8 * torch.rand(10000, generator=torch.Generator().manual_seed(0))
    error = exp2_weights(x).double() / 2**31 / x.double().exp2() - 1
    assert error.abs().max() < 2**-22


def test_rows_have_their_own_parameters() -> None:
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(1))
    columns = (
        *(torch.tensor([0.0, 1.0, 2.0, 1.0]), torch.tensor([0, 5, 0, 1]).int()),
        *(torch.tensor([1.0, 1.0, 0.5, 1.0]), torch.arange(8).int().view(4, 2)),
        torch.tensor([3, 4, 5, 6]).int(),
    )
    ids = OPS["sample"].reference(CONTEXTS["plan"], logits, *columns)
    assert isinstance(ids, torch.Tensor)
    rows = [
        sample_row(logits[i], *(column[i].tolist() for column in columns))  # pyright: ignore
        for i in range(4)
    ]
    assert ids.dtype == torch.int32
    assert ids.tolist() == rows
    assert ids[0] == logits[0].argmax()
    assert ids[3] == logits[3].argmax()
