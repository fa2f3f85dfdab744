"""Schedules of retraining and monitoring in Prefect, and the worker that runs them.

The flows themselves are modules of `flows`.
"""
