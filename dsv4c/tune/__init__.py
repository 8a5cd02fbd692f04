"""Measuring tiles: candidates compiled on any machine, timed on a GPU, winners kept as data."""
