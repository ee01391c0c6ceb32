"""The form that is exported: folded, fused, equal to training within rounding; and the way back."""
