"""Feedback as training data: review of label corrections, and the log of decisions about them.

The API receives and logs feedback in `relearn.serving.predictions`.
"""
