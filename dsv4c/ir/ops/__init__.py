"""The ops, one family per module. Importing this package declares them all."""

from dsv4c.ir.ops import attention, basic, compressor, hyper, indexer, moe, rope, sample

__all__ = ["attention", "basic", "compressor", "hyper", "indexer", "moe", "rope", "sample"]
