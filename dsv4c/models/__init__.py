"""Architectures: config.json and checkpoint names to a graph."""
