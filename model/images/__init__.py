"""Image files to arrays: decode, resize, fit to a dataset's shape, convert to MNIST's style.

Datasets of images are in `model.data`, the parsing of HTTP requests is in `serving.inputs`.
"""
