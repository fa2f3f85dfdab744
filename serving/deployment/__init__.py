"""Bentos and server processes: building, starting, stopping and finding them.

The service that a server runs is `relearn.serving.service`.
"""
