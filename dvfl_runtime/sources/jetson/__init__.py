"""CSI cameras and the video decoder of NVIDIA Jetson (experimental: not yet run on a Jetson)."""
