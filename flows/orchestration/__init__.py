"""Access to Prefect: its REST API, the server that flows report to, the stack of `relearn up`.

Deployments, schedules and the worker live in `scheduling`.
"""
