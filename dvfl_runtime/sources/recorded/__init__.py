"""Sources that give every frame and can be read again: files, images and frames in memory."""
