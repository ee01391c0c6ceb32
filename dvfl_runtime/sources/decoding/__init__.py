"""From an open container to whole, upright pictures; shared by files and streams."""
