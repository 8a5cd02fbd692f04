from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from dsv4c.errors import DsvError
from dsv4c.tokenizer import Tokenizer


def write(folder: Path, **config: object) -> Path:
    """A byte-level tokenizer: ids 0 and 1 are special, the 256 bytes follow, then two merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|begin|>", "<|end|>", *alphabet, "he", "ll"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    library = tokenizers.Tokenizer(models.BPE(vocabulary, [("h", "e"), ("l", "l")]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(["<|begin|>", "<|end|>"])
    library.save(str(folder / "tokenizer.json"))
    names = {"bos_token": {"content": "<|begin|>"}} | config
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return Tokenizer.load(write(tmp_path, add_bos_token=True))


def test_the_document_token_opens_a_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("hello")
    assert tokenizer.bos == 0
    assert ids[0] == 0
    assert len(ids) == 1 + len(("he", "ll", "o"))
    assert tokenizer.decode(ids) == "hello"


def test_no_document_token_where_the_checkpoint_wants_none(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write(tmp_path, add_bos_token=False))
    assert tokenizer.bos is None
    assert tokenizer.decode(tokenizer.encode("hello")) == "hello"
    assert len(tokenizer.encode("hello")) == 3


def test_a_character_is_printed_when_its_last_byte_has_come(tokenizer: Tokenizer) -> None:
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in tokenizer.encode("é世🙂")[1:]]
    assert pieces == ["", "é", "", "", "世", "", "", "", "🙂"]
    assert stream.finish() == ""


def test_an_unfinished_character_is_replaced_at_the_end(tokenizer: Tokenizer) -> None:
    stream = tokenizer.stream()
    ids = tokenizer.encode("a🙂")[:-1]
    assert "".join(stream.push(token) for token in ids) == "a"
    assert stream.finish() == "\ufffd"
    assert stream.finish() == ""


def test_streamed_text_is_the_text_decoded_at_once(tokenizer: Tokenizer) -> None:
    rng = random.Random(0)
    for _ in range(300):
        ids = [rng.randrange(260) for _ in range(rng.randrange(1, 40))]
        stream = tokenizer.stream()
        assert "".join(map(stream.push, ids)) + stream.finish() == tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("tokenizer.json", "{}", "tokenizer.json"),
        ("tokenizer_config.json", "[]", "no JSON object"),
        ("tokenizer_config.json", '{"bos_token": "<none>"}', "'<none>'"),
    ],
)
def test_malformed_files(tmp_path: Path, name: str, text: str, found: str) -> None:
    (write(tmp_path) / name).write_text(text)
    with pytest.raises(DsvError) as caught:
        Tokenizer.load(tmp_path)
    assert caught.value.code == "DSV211"
    assert found in str(caught.value)


def test_a_missing_tokenizer_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DsvError, match="--tokens") as caught:
        Tokenizer.load(tmp_path)
    assert caught.value.exit_code == 3
