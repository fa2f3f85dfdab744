"""A data source in words: its description, the names of classes and splits in it, the images read from it.

How a source is inspected and read is in `model.sources`.
"""
