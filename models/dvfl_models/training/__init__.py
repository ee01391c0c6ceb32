"""A run: from a recipe to checkpoints and results, with tests on the way."""
