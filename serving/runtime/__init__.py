"""State of a running worker: the served model and its reload, micro-batching, worker status.

Routes live in `serving/api`; starting and stopping server processes lives in `serving/deployment`.
"""
