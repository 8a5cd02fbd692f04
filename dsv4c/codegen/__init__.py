"""Code generation: facts about a fused node -> rendered CuTe DSL source -> objects -> one library.

Nothing here knows the IR: the lowering pass hands over plain facts (`dsv4c.codegen.kernel`).
"""
