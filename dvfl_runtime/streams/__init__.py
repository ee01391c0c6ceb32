"""Many sources through one engine: batches, scores and smoothed results, in order."""
