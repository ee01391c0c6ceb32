"""Sources that give the newest frame and reconnect: cameras, streams and GStreamer pipelines."""
