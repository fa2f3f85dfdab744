"""Labelled images from a source to prepared splits on disk: load, validate, split, augment, explore.

Decoding of image files is in `model.images`, batches of a training are in `model.training`.
"""
