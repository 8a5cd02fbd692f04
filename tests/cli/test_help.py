"""The help texts, word for word, and what they cost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from click.testing import CliRunner

from dsv4c import __version__
from dsv4c.cli import COMMANDS, main

HEAVY = ("torch", "cutlass", "networkx", "jinja2", "rich", "numpy", "msgspec", "tokenizers")


def help_text(*words: str) -> str:
    result = CliRunner().invoke(main, [*words, "--help"], prog_name="dsv4c", terminal_width=100)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("name", ["dsv4c", *COMMANDS])
def test_help(name: str, golden: Callable[[str, str], None]) -> None:
    golden(f"cli/{name}.txt", help_text(*([] if name == "dsv4c" else [name])))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_short_help_is_the_commands_own_summary_or_shorter(name: str) -> None:
    assert COMMANDS[name].endswith(".")
    assert len(COMMANDS[name]) <= 60
    assert f"{name} " in help_text()


def test_version() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.stdout == f"dsv4c, version {__version__}\n"


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS)])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "dsv4c", *words, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "click" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_help_is_quick() -> None:
    def once() -> float:
        begin = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "dsv4c", "--help"], stdout=subprocess.DEVNULL, check=True
        )
        return time.perf_counter() - begin

    if os.getloadavg()[0] > 2 * (os.cpu_count() or 1):
        pytest.skip("the machine is too busy to time anything")
    assert min(once() for _ in range(5)) < 0.150
