"""The rendering of errors."""

from __future__ import annotations

import pickle

from dsv4c.errors import DsvError


def test_what_a_file_says_cannot_steer_a_terminal() -> None:
    error = DsvError("DSV211", "bad", where="a\x1b[31mb", found="\ud800 ä\tz", hint="two\nlines")
    text = str(error)
    assert r"a\x1b[31mb" in text
    assert r"\ud800 ä\tz" in text
    assert text.endswith("two\nlines")
    assert text.encode()


def test_errors_travel_between_processes() -> None:
    error = DsvError("DSV301", "what", where="here", hint="do that")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.exit_code) == (str(error), 4)
