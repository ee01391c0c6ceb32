"""Experiments over many runs: cross-validation, comparisons, baselines, and their tables."""
