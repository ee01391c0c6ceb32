"""The architecture, its checkpoints, its initial weights and its cost."""
