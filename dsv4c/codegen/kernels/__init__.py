"""The kernel families, one module each; imported on first use."""

MODULES: dict[str, str] = {
    "step_metadata": "dsv4c.codegen.kernels.step_metadata",
    "rms_norm": "dsv4c.codegen.kernels.rms_norm",
    "latent_compress": "dsv4c.codegen.kernels.latent_compress",
    "qnorm_rope_kv_insert": "dsv4c.codegen.kernels.qnorm_rope_kv_insert",
    "index_scores": "dsv4c.codegen.kernels.index_scores",
    "topk_entries": "dsv4c.codegen.kernels.topk_entries",
    "sparse_attention": "dsv4c.codegen.kernels.sparse_attention",
    "inverse_rope_wo_a": "dsv4c.codegen.kernels.inverse_rope_wo_a",
    "linears": "dsv4c.codegen.kernels.linears",
    "router": "dsv4c.codegen.kernels.router",
    "moe_gate_up": "dsv4c.codegen.kernels.moe_gate_up",
    "moe_down": "dsv4c.codegen.kernels.moe_down",
    "mhc_seam": "dsv4c.codegen.kernels.mhc_seam",
    "mhc_first": "dsv4c.codegen.kernels.mhc_first",
    "mhc_head": "dsv4c.codegen.kernels.mhc_head",
    "sample": "dsv4c.codegen.kernels.sample",
}
