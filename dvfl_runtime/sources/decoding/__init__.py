"""From packets and image files to whole, upright pictures; shared by files and live streams."""
