"""Importing the package declares the ops, which these tests look up by name."""

from __future__ import annotations

from dsv4c.ir import ops

assert ops.__all__
