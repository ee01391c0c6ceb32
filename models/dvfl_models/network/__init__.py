"""The architecture, its checkpoints and its cost."""
