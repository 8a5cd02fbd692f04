"""Executing a plan."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsv4c.runtime.session import Session as Session

__all__ = ["Session"]


def __getattr__(name: str) -> object:
    if name != "Session":
        raise AttributeError(f"module 'dsv4c.runtime' has no attribute {name!r}")
    return import_module("dsv4c.runtime.session").Session
