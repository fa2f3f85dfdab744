"""Datasets by name or source: load, group, split, augment.

Layouts that people bring are in `model.sources`, splits kept on disk in `model.preparation`.
"""
