"""What a card has, by which tiles are chosen."""

from __future__ import annotations

SMEM = 232448
"""Bytes of shared memory that a block may have, on sm_90a and sm_100a; the compiler does not check it."""
SMS = {"sm_90a": 132, "sm_100a": 148}
"""Multiprocessors of an H100 and of a B200."""
