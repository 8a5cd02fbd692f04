"""Checkpoint folders: safetensors headers, reading, writing, quantising."""
