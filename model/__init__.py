"""Learns and predicts: images and labels in, a `Classifier` out. Imports nothing else of this project."""
