"""Sources of images that people bring: folders, archives, tables, arrays; inspected first, then read.

Built-in datasets, splits and prepared data are in `model.data`, which builds on this package.
"""
