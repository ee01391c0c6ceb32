"""What dvfl-bench measures on a device: latency, stages, memory, power, and which machine it is."""
