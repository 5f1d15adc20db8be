"""Connect, collapse, corrupt (Zhang et al., ICLR 2024): its captioning experiments and their numbers."""
