"""Fault injection into a running service: killed processes, stopped containers, triggered alerts.

Each script checks the outcome and writes a page of `docs`; load and latency are measured in `benchmarks`.
"""
