"""Training: the loop, its batches, optimizers, early stopping, checkpoints and gradient health.

Tracking and the command line are in `relearn.flows`, which passes callbacks to `fit`.
"""
