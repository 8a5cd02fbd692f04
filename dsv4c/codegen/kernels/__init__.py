"""The kernel families, one module each; imported on first use."""

MODULES: dict[str, str] = {
    "qnorm_rope_kv_insert": "dsv4c.codegen.kernels.qnorm_rope_kv_insert",
    "sparse_attention": "dsv4c.codegen.kernels.sparse_attention",
    "inverse_rope_wo_a": "dsv4c.codegen.kernels.inverse_rope_wo_a",
}
