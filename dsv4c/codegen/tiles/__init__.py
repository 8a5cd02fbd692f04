"""Tile and pipeline choices, as data: one module per kind, looked up by the family's `select`.

Each entry says what it was chosen on; figures are in `docs/perf/`.
"""
