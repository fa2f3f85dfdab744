"""Evaluation of tracked runs: lookup, comparison, paired test, scoring and reproduction.

Metrics and statistics are in `relearn.model.evaluation`.
"""
