"""The overlay: predictions drawn on the pictures of a source, and videos made of the result."""
