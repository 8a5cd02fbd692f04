"""The IR: types, ops, graph, text, verifier, interpreter. Knows no files, kernels or devices."""
