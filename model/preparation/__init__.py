"""From labeled images to prepared splits on disk: validate, add feedback, keep the originals, explore.

How a dataset is loaded and split is in `model.data`, batches are in `model.training`.
"""
