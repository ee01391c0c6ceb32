"""The deploy form: folded and fused, equal to the training form within rounding; the way back."""
