"""Backpropagation written out by hand, and worked examples of it.

For teaching and for checks against autograd; training uses `model/training`. Figures are in `model/plots`.
"""
