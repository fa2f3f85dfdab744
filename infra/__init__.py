"""Scripts around the project: setup, Compose, image checks, the demo and the README screenshot.

Fault injection is in `infra.chaos`, alert rules and dashboards are in `infra/monitoring`.
"""
