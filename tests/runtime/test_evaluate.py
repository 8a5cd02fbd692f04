"""Teacher-forced loss: which tokens are predicted from which."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from dsv4c.errors import DsvError
from dsv4c.evaluate import evaluate
from dsv4c.plan.plan import Plan


@pytest.mark.parametrize("window", [1, 7, 20, 50])
def test_each_token_is_predicted_once_from_its_window(
    plan: Plan, tokens: Callable[[int, int], list[int]], window: int
) -> None:
    ids = tokens(21, 1)
    session = plan.session(max_sequences=1, max_tokens=window)
    seen: list[tuple[str, int, int]] = []
    result = evaluate(session, ids, window, lambda *event: seen.append(event))
    nats, correct = 0.0, 0
    for place in range(1, 21):
        begin = (place - 1) // window * window
        slot = session.open()
        logits = session.prefill(slot, ids[begin:place])[0].double()
        session.close(slot)
        nats -= logits.log_softmax(-1)[ids[place]].item()
        correct += int(logits.argmax().item() == ids[place])
    assert result.tokens == 20
    assert result.nats == pytest.approx(nats, abs=1e-4)
    assert result.correct == correct
    assert result.perplexity == pytest.approx(math.exp(nats / 20), rel=1e-5)
    assert seen[-1] == ("evaluate", 20, 20)
    assert len(seen) == -(-20 // window)
    assert not session.slots.lengths


def test_nothing_to_predict(plan: Plan) -> None:
    session = plan.session(1, 8)
    for ids in ([], [3]):
        with pytest.raises(DsvError, match="there is nothing to predict") as caught:
            evaluate(session, ids, 4)
        assert (caught.value.code, caught.value.found) == ("DSV241", str(len(ids)))


def test_a_bad_id_leaves_no_slot_open(plan: Plan) -> None:
    session = plan.session(1, 8)
    with pytest.raises(DsvError, match="out of range"):
        evaluate(session, [1, 2, 500, 3], 4)
    assert not session.slots.lengths
    assert isinstance(session.prefill(session.open(), [1]), torch.Tensor)
