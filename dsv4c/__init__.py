"""dsv4c: compile a DeepSeek-V4 checkpoint into a plan of named kernels, inspect it, run it.

The public names are imported when they are first used, so `import dsv4c` costs nothing and
needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsv4c.api import compile as compile
    from dsv4c.errors import DsvError as DsvError
    from dsv4c.plan.plan import Plan as Plan
    from dsv4c.plan.plan import load_plan as load_plan
    from dsv4c.runtime.sampling import Sampling as Sampling
    from dsv4c.runtime.session import Session as Session

__version__ = "0.1.0"

_HOMES = {
    "DsvError": "dsv4c.errors",
    "Plan": "dsv4c.plan.plan",
    "Sampling": "dsv4c.runtime.sampling",
    "Session": "dsv4c.runtime.session",
    "compile": "dsv4c.api",
    "load_plan": "dsv4c.plan.plan",
}

__all__ = ["DsvError", "Plan", "Sampling", "Session", "__version__", "compile", "load_plan"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'dsv4c' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
