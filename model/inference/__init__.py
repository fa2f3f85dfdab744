"""Inference: `Classifier`, the one path from images to predictions, and its `ModelCard`.

Decoding of image files is in `relearn.model.images`, scores are in `relearn.model.evaluation`.
"""
