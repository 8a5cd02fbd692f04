"""Every environment variable that dsv4c reads: name, type, default and meaning, once.

Precedence: an argument (a flag of the command line) over the environment over the default.
Variables are read when asked for, not at import, so that tests and notebooks can change them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

from dsv4c.errors import DsvError

T = TypeVar("T")

PREFIX = "DSV4C_"
_SWITCH = {"1": True, "true": True, "yes": True, "on": True} | {
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}
_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Setting(Generic[T]):
    """One variable.

    Attributes:
        name: of the environment variable.
        kind: what a value looks like, for messages and for `dsv4c env`.
        doc: what it does, one line.
        parse: text to value; raises ValueError or KeyError on text that is not a value.
        default: computes the value that holds when nothing is set.
    """

    name: str
    kind: str
    doc: str
    parse: Callable[[str], T]
    default: Callable[[], T]

    def resolve(self, flag: T | None = None) -> Resolved[T]:
        """The value in force; an empty variable counts as not set.

        Raises:
            DsvError: DSV101, the variable's text is not a value.
        """
        if flag is not None:
            return Resolved(flag, "flag")
        text = os.environ.get(self.name, "")
        if not text:
            return Resolved(self.default(), "default")
        try:
            return Resolved(self.parse(text), "env")
        except (ValueError, KeyError):
            raise DsvError(
                "DSV101",
                "an environment variable has no valid value",
                where=self.name,
                expected=self.kind,
                found=repr(text),
            ) from None


@dataclass(frozen=True, slots=True)
class Resolved(Generic[T]):
    """A setting's value and where it came from: `flag`, `env` or `default`."""

    value: T
    origin: str


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _default_cache_dir() -> Path:
    return _path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "dsv4c"


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _switch(text: str) -> bool:
    return _SWITCH[text.lower()]


def _log_levels(text: str) -> dict[str, str]:
    levels: dict[str, str] = {}
    for item in text.split(","):
        area, _, level = item.strip().rpartition("=")
        if level not in _LEVELS:
            raise ValueError(text)
        levels[area] = level
    return levels


CACHE_DIR = Setting(
    "DSV4C_CACHE_DIR",
    "a folder",
    "where compiled kernels and saved tracebacks are kept",
    _path,
    _default_cache_dir,
)
JOBS = Setting(
    "DSV4C_JOBS",
    "an integer of at least 1",
    "how many kernels are compiled at the same time; the default is the number of cores",
    _count,
    lambda: len(os.sched_getaffinity(0)),
)
FROZEN = Setting(
    "DSV4C_FROZEN",
    "0 or 1",
    "take every kernel from the cache and fail where one would have to be compiled",
    _switch,
    lambda: False,
)
LOG = Setting(
    "DSV4C_LOG",
    "LEVEL or AREA=LEVEL, comma separated; LEVEL is debug, info, warning or error",
    "what is logged on stderr, by area of the package (passes=debug,codegen=info)",
    _log_levels,
    lambda: {"": "warning"},
)
DEBUG = Setting(
    "DSV4C_DEBUG",
    "0 or 1",
    "show the traceback of every error",
    _switch,
    lambda: False,
)
PDL = Setting(
    "DSV4C_PDL",
    "0 or 1",
    "whether a kernel may begin while the one before it ends; read by compiled kernels, for timing",
    _switch,
    lambda: True,
)

AnySetting: TypeAlias = Setting[Path] | Setting[int] | Setting[bool] | Setting[dict[str, str]]

SETTINGS: tuple[AnySetting, ...] = (CACHE_DIR, JOBS, FROZEN, LOG, DEBUG, PDL)


def cache_dir(flag: Path | None = None) -> Path:
    """Folder of compiled kernels and saved tracebacks; it need not exist yet."""
    return CACHE_DIR.resolve(flag).value


def jobs(flag: int | None = None) -> int:
    """How many kernels to compile at the same time."""
    return JOBS.resolve(flag).value


def frozen(flag: bool | None = None) -> bool:
    """Whether a kernel that is not in the cache is an error."""
    return FROZEN.resolve(flag).value


def debug(flag: bool | None = None) -> bool:
    """Whether errors show their traceback."""
    return DEBUG.resolve(flag).value


def log_levels() -> dict[str, str]:
    """Level per area (`passes` stands for `dsv4c.passes`), the empty name for all of dsv4c."""
    return LOG.resolve().value


def color_allowed() -> bool:
    """False when NO_COLOR is set (https://no-color.org) or the terminal is dumb."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def unknown_variables() -> list[tuple[str, str | None]]:
    """Variables that start with DSV4C_ and mean nothing, each with the nearest known name."""
    known = {setting.name.removeprefix(PREFIX) for setting in SETTINGS}
    names = (name.removeprefix(PREFIX) for name in os.environ if name.startswith(PREFIX))
    unknown = sorted(name for name in names if name not in known)
    if not unknown:
        return []
    from difflib import get_close_matches

    nearest = {name: next(iter(get_close_matches(name, known, 1)), None) for name in unknown}
    return [(PREFIX + name, PREFIX + near if near else None) for name, near in nearest.items()]
