"""Latency and throughput that can be believed, with IoU in the same row."""
