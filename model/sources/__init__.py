"""Sources of images that people bring: folders, archives, tables, arrays; inspected first, then read.

What an inspection finds is in `model.description`, built-in datasets in `model.data`.
"""
