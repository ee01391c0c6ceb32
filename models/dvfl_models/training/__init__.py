"""A run: from a recipe to checkpoints, with tests during it."""
