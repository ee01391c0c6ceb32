"""Lower precisions of a graph: fp16, int8 with its calibration, and compressed weights."""
