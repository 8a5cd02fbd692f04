"""Other implementations of what the generated kernels do, measured in the same run."""
