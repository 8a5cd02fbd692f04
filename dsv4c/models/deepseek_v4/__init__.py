"""DeepSeek-V4: configuration, tensor names, inventory, graph."""
