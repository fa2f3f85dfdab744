"""Prometheus metrics: those that the API counts, and those that flows leave in files.

Alert rules and the dashboard are in `infra/monitoring`.
"""
