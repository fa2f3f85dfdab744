"""Orchestration and tracking: Prefect flows, MLflow tracking, the command line."""
