"""Training: the loop, its batches, optimizers, early stopping, checkpoints and gradient health.

Tracking and the command line are in `relearn.flows`, which passes callbacks to `fit`.

`TrainConfig.seed` determines every random number: the initial weights (`networks.registry.build_network`),
dropout (`TrainingState.create`; its random state is part of a checkpoint), and the order and augmentation of
each epoch (`BatchLoader.iterate_shuffled`). `devices` sets what else changes the last bits of a result: the
number of CPU threads and TF32.
"""
