"""The guard around every command: exceptions become one message on stderr and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import click

from dsv4c import settings
from dsv4c.cli.options import Invocation
from dsv4c.errors import DsvError

INTERRUPTED = 130
BROKEN_PIPE = 141
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def guard(ctx: click.Context) -> Generator[None]:
    """Turn what a command raises into a message and `ctx.exit` with the code of its kind."""
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except KeyboardInterrupt:
        click.echo("\ninterrupted", err=True)
        ctx.exit(INTERRUPTED)
    except BrokenPipeError:
        # What is still buffered has no reader; the interpreter must not try to flush it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        ctx.exit(BROKEN_PIPE)
    except Exception as error:
        told = error if isinstance(error, DsvError) else _translate(error)
        if settings.debug(ctx.find_root().ensure_object(Invocation).debug):
            click.echo("".join(traceback.format_exception(error)), err=True)
        click.echo(str(told), err=True)
        ctx.exit(told.exit_code)


def _translate(error: Exception) -> DsvError:
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return DsvError(
            "DSV603",
            "the disk is full",
            where=str(error.filename or ""),
            hint="free disk space, or choose another folder for the output or DSV4C_CACHE_DIR",
        )
    saved = _save_traceback(error)
    return DsvError(
        "DSV901",
        f"internal error: {type(error).__name__}: {error}",
        where=f"traceback in {saved}" if saved else "",
        hint="this is a bug in dsv4c; please report it with the command"
        + (" and that file" if saved else " and its output with --debug"),
    )


def _save_traceback(error: Exception) -> Path | None:
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    text = f"{' '.join(sys.argv)}\n\n{''.join(traceback.format_exception(error))}"
    try:
        path = settings.cache_dir() / "tracebacks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except (OSError, DsvError):
        return None
    return path
