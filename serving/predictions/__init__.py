"""The prediction log: its writer in the API, its reader for flows, and feedback on predictions.

What the log means (drift, accuracy, training data) is decided in `relearn.flows`.
"""
