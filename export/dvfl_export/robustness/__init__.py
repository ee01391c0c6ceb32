"""Accuracy under what cameras do to a picture: light, noise, shake, compression and the like."""
