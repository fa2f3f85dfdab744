"""Matplotlib figures of data, training, evaluation, comparison, drift and backpropagation.

Functions take computed values and return a `Figure`. Metrics are computed elsewhere; saving and logging
figures is up to the caller.
"""
