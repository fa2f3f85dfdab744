"""The same network trained by several libraries: one module per library, each with a function `train`.

`train(settings, train_split, validation_split, on_epoch_end)` evaluates on `validation_split` after every
epoch. A split is a pair of uint8 images (n, channels, height, width) and int64 labels; `settings` has the
names of `TrainConfig`. `on_epoch_end` takes the accuracy in 0–1, and blocks until the next epoch is
requested.
"""
