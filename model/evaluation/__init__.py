"""Evaluation: metrics, misclassified images, robustness to corruptions, paired significance tests.

Everything here is computed from probabilities and labels. Figures are in `model/plots`; the decision to
promote a classifier is in `flows/promotion`.
"""
