"""Streams, exit codes and messages that every command shares."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from dsv4c import cli
from dsv4c.cli.errors import guard
from dsv4c.cli.options import Invocation, debug_option
from dsv4c.errors import CODES, DsvError


@pytest.fixture(autouse=True)
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DSV4C_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("DSV4C_DEBUG", raising=False)
    return tmp_path / "cache"


def call(*words: str, text: str | None = None) -> Result:
    return CliRunner().invoke(cli.main, words, prog_name="dsv4c", input=text)


def call_raising(error: BaseException, *words: str) -> Result:
    """What the command line makes of a command that raises."""

    class Group(click.Group):
        def invoke(self, ctx: click.Context) -> object:
            with guard(ctx):
                return super().invoke(ctx)

    @click.group(cls=Group)
    @click.pass_context
    def group(ctx: click.Context) -> None:
        ctx.ensure_object(Invocation)

    @group.command()
    @debug_option
    def fail() -> None:
        raise error

    return CliRunner().invoke(group, ["fail", *words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cook"], "No such command 'cook'."),
        (["inspct"], "Did you mean 'inspect'?"),
        (["env", "--jsn"], "No such option '--jsn'. Did you mean '--json'?"),
        (["compile", "model"], "Missing option '-o' / '--out'."),
        (["compile", "model", "-o", "p", "--target", "sm_80"], "'sm_80' is not one of"),
        (["compile", "model", "-o", "p", "-j", "0"], "0 is not in the range x>=1."),
        (["generate"], "Missing argument 'PLAN'."),
        (["generate", "p", "x", "--top-p", "0"], "0.0 is not in the range 0<x<=1."),
        (["run", "p"], "Give one of --prompt, --text and --tokens."),
        (["run", "p", "--tokens", "absent"], "File 'absent' does not exist."),
        (["inspect", "p", "soup"], "'soup' is not one of"),
        (["quantize", "a", "b", "--experts", "int3"], "'int3' is not one of"),
    ],
)
def test_usage_errors(words: list[str], message: str) -> None:
    result = call(*words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Usage: dsv4c" in result.stderr
    assert message in result.stderr


def test_a_dsv_error_is_its_text_and_its_code() -> None:
    error = DsvError("DSV211", "a shard is truncated", where="model.safetensors", hint="fetch it")
    result = call_raising(error)
    assert result.exit_code == 3
    assert result.stdout == ""
    assert result.stderr == str(error) + "\n"


@pytest.mark.parametrize("code", CODES)
def test_every_code_leads_to_its_exit_code(code: str) -> None:
    expected = {"1": 2, "2": 3, "3": 4, "4": 5, "5": 6, "6": 7, "9": 1}[code[3]]
    assert call_raising(DsvError(code, "x")).exit_code == expected


def test_debug_shows_the_traceback_too(monkeypatch: pytest.MonkeyPatch) -> None:
    error = DsvError("DSV101", "a flag is wrong")
    by_flag = call_raising(error, "--debug")
    monkeypatch.setenv("DSV4C_DEBUG", "1")
    for result in (by_flag, call_raising(error)):
        assert result.stderr.startswith("Traceback (most recent call last)")
        assert result.stderr.endswith(f"{error}\n")


def test_an_unexpected_exception_keeps_its_traceback_in_a_file(cache_dir: Path) -> None:
    result = call_raising(ZeroDivisionError("by nothing"))
    assert result.exit_code == 1
    (saved,) = (cache_dir / "tracebacks").iterdir()
    assert result.stderr == (
        "DSV901: internal error: ZeroDivisionError: by nothing\n"
        f"  where:    traceback in {saved}\n"
        "  hint:     this is a bug in dsv4c; please report it with the command and that file\n"
    )
    assert "ZeroDivisionError: by nothing" in saved.read_text()
    assert "Traceback (most recent call last)" in saved.read_text()


def test_a_traceback_that_cannot_be_saved_does_not_hide_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DSV4C_CACHE_DIR", str(tmp_path / "file"))
    result = call_raising(KeyError("k"))
    assert result.exit_code == 1
    assert "KeyError" in result.stderr
    assert "with its output with --debug" not in result.stderr


def test_a_full_disk_is_told_as_such() -> None:
    result = call_raising(OSError(errno.ENOSPC, "No space left on device", "weights.safetensors"))
    assert result.exit_code == 7
    assert "DSV603: the disk is full" in result.stderr
    assert "weights.safetensors" in result.stderr


def test_an_interrupt_exits_130() -> None:
    result = call_raising(KeyboardInterrupt())
    assert result.exit_code == 130
    assert result.stderr == "\ninterrupted\n"


def test_a_closed_pipe_is_quiet() -> None:
    code = "from dsv4c.cli import main; main(['env'], prog_name='dsv4c')"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-u", "-c", code], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert done.returncode == 141
    assert done.stderr == b""


def test_an_unknown_variable_warns_on_stderr_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSV4C_JOB", "2")
    result = call("env", "--json")
    assert result.exit_code == 0
    assert result.stderr == (
        "warning: DSV4C_JOB is not a variable of dsv4c; did you mean DSV4C_JOBS?\n"
    )
    json.loads(result.stdout)


def test_a_bad_variable_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSV4C_JOBS", "none")
    result = call("env")
    assert result.exit_code == 2
    assert "where:    DSV4C_JOBS" in result.stderr
