"""Clips for training and tests, from files and of drawn people, and what splits give away."""
