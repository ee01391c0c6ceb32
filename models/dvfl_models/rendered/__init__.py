"""Drawn people: bodies, poses, motions and scenes, whose joints and times are known."""
