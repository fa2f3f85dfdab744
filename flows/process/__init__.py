"""This process and its surroundings: environment variables, system limits, signals, identity, time limits.

What it prints is in `terminal`.
"""
