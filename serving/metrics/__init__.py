"""Prometheus metrics: counted by the API, or written to files by flows.

Alert rules and the dashboard are in `infra/monitoring`.
"""
