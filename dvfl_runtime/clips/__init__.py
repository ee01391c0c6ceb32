"""From frames to clips: which frames a model gets, and how their pictures are prepared."""
