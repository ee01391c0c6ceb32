"""Comparisons of formulations, engines and precisions, taken in turn in one run."""
