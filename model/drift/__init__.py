"""Drift detection: statistics of images, and tests of a window of predictions against a reference.

The package reads and writes no files. The window and the reference are loaded in `flows/monitoring`;
figures are in `model/plots`.
"""
