"""Measurements, each with its conditions: `make bench` writes them to `benchmarks/results/`."""
