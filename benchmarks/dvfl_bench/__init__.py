"""Latency, accuracy and energy of exported models, measured on the device that runs them."""
