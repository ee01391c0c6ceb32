"""Pictures with what was recognised drawn on them, and videos made of such pictures."""
