"""Training: preconditions, resuming, metric logging and the report of a retraining.

The training loop itself is in `relearn.model.training`, the flows in `relearn.flows.train` and `retrain`.
"""
