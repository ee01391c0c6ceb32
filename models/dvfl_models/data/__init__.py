"""Clips for training and tests, from video files or drawn, and the batches made of them."""
