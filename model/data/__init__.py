"""Labeled images from a source to prepared splits on disk: load, validate, split, augment, explore.

Layouts that people bring are in `model.sources`, image files in `model.images`, batches in `model.training`.
"""
