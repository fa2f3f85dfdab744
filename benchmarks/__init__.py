"""Benchmarks. `make bench` writes their tables, with the conditions, to `benchmarks/results/`."""
