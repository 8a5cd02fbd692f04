"""Text to token ids and back, from the `tokenizer.json` of a checkpoint or a plan.

The chat template of a checkpoint is not applied: dsv4c continues text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from dsv4c.errors import DsvError

if TYPE_CHECKING:
    import tokenizers

FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A tokenizer with the id that opens a document.

    Attributes:
        library: the tokenizer itself.
        bos: id to put in front of a text; None where the checkpoint wants none.
    """

    library: tokenizers.Tokenizer
    bos: int | None

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read `tokenizer.json` and, where there is one, `tokenizer_config.json`.

        Raises:
            DsvError: DSV211, a file is missing or malformed, or names a token that does not exist.
        """
        import tokenizers

        path, config_path = (folder / name for name in FILES)
        if not path.is_file():
            raise DsvError(
                "DSV211",
                "there is no tokenizer",
                where=str(path),
                hint="pass token ids (--tokens) or copy the checkpoint's tokenizer.json there",
            )
        try:
            library = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise _malformed(path, str(error)) from error
        config = _read_config(config_path)
        bos = _token_id(library, config, "bos_token", config_path)
        return cls(library, bos if config.get("add_bos_token", True) else None)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, opened by the document token; special tokens in `text` are recognised."""
        ids = self.library.encode(text, add_special_tokens=False).ids
        return ids if self.bos is None else [self.bos, *ids]

    def decode(self, ids: list[int]) -> str:
        """Text of `ids` without special tokens; bytes that are not UTF-8 become U+FFFD."""
        return self.library.decode(ids, skip_special_tokens=True)

    def stream(self) -> TextStream:
        """A decoder for ids that arrive one at a time."""
        return TextStream(self)


class TextStream:
    """Decodes ids one at a time; what it returns adds up to `Tokenizer.decode` of all of them.

    A character whose bytes span tokens is held back until its last byte has come.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._held: list[int] = []

    def push(self, token: int) -> str:
        """The text that `token` completes, possibly empty."""
        text = self._stream.step(self._tokenizer.library, token)
        if text is None:
            self._held.append(token)
            return ""
        self._held.clear()
        return text

    def finish(self) -> str:
        """What is still held back: an incomplete character, as U+FFFD."""
        held, self._held = self._held, []
        return self._tokenizer.decode(held)


def _read_config(path: Path) -> dict[str, object]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _malformed(path, str(error)) from error
    if not isinstance(config, dict):
        raise _malformed(path, "no JSON object")
    return cast("dict[str, object]", config)


def _token_id(
    library: tokenizers.Tokenizer, config: dict[str, object], field: str, path: Path
) -> int | None:
    value = config.get(field)
    if isinstance(value, dict):  # {"__type": "AddedToken", "content": "..."}
        value = cast("dict[str, object]", value).get("content")
    if value is None:
        return None
    token = library.token_to_id(str(value))
    if token is None:
        raise DsvError(
            "DSV211",
            "the tokenizer does not know its own special token",
            where=f"{path}, {field}",
            expected="a token of tokenizer.json",
            found=repr(value),
        )
    return token


def _malformed(path: Path, reason: str) -> DsvError:
    return DsvError("DSV211", "a tokenizer file is malformed", where=str(path), found=reason)
