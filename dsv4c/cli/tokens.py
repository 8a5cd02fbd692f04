"""The text that a command runs: options, and how they become token ids."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import click

from dsv4c.errors import DsvError

if TYPE_CHECKING:
    from dsv4c.plan.plan import Plan

F = TypeVar("F", bound=Callable[..., object])


@dataclass(frozen=True, slots=True)
class Source:
    """Where the tokens come from; at most one of them is given."""

    prompt: str | None
    text: Path | None
    tokens: Path | None

    @property
    def given(self) -> int:
        return sum(one is not None for one in (self.prompt, self.text, self.tokens))

    def require(self) -> None:
        """Raise click.UsageError unless one is given."""
        if self.given != 1:
            raise click.UsageError("Give one of --prompt, --text and --tokens.")

    def ids(self, plan: Plan) -> list[int]:
        """Token ids. Raises DsvError DSV241 if there are none."""
        if self.tokens is not None:
            ids = _read_tokens(self.tokens)
        else:
            from dsv4c.tokenizer import Tokenizer

            text = self.text.read_text(encoding="utf-8") if self.text is not None else self.prompt
            ids = Tokenizer.load(plan.path).encode(text or "")
        if not ids:
            raise DsvError("DSV241", "there is nothing to run", expected="at least one token id")
        return ids

    def ids_or_random(self, plan: Plan, count: int = 160) -> list[int]:
        """The ids that are given, else `count` from a fixed seed."""
        if self.given > 1:
            self.require()
        return self.ids(plan) if self.given else random_ids(plan.manifest.model.vocab_size, count)


def random_ids(vocab_size: int, count: int) -> list[int]:
    """Equally likely token ids, always the same."""
    import random

    draw = random.Random(0)
    return [draw.randrange(vocab_size) for _ in range(count)]


def token_options(function: F) -> F:
    """`--prompt`, `--text` and `--tokens`, passed as `prompt`, `text_file` and `token_file`."""
    file = click.Path(path_type=Path, dir_okay=False, exists=True)
    function = click.option(
        "--tokens",
        "token_file",
        metavar="FILE",
        type=file,
        help="A file of token ids: a JSON list, or numbers apart by white space.",
    )(function)
    function = click.option(
        "--text", "text_file", metavar="FILE", type=file, help="A file of UTF-8 text."
    )(function)
    return click.option("--prompt", metavar="TEXT", help="The text itself.")(function)


def _read_tokens(path: Path) -> list[int]:
    text = path.read_text(encoding="utf-8")
    try:
        ids = json.loads(text) if text.lstrip().startswith("[") else text.split()
        return [int(token) for token in cast("list[int | str]", ids)]
    except (ValueError, TypeError) as error:
        raise DsvError(
            "DSV241",
            "a file does not hold token ids",
            where=str(path),
            expected="a JSON list of integers, or integers apart by white space",
            found=str(error),
        ) from error
