"""Plans: the folder that compile writes and a session runs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsv4c.plan.plan import Plan as Plan

__all__ = ["Plan"]


def __getattr__(name: str) -> object:
    if name != "Plan":
        raise AttributeError(f"module 'dsv4c.plan' has no attribute {name!r}")
    return import_module("dsv4c.plan.plan").Plan
