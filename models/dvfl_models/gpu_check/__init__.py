"""Measurements on an NVIDIA GPU: training and distillation, each part bounded in time."""
