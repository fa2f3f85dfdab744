"""One network, trained the way each library means it: a file a library, each with one function `train`.

`train(settings, learn, look, epoch_done)` trains on `learn` and looks at `look` after every epoch, each a
pair of uint8 images (n, channels, height, width) and int64 labels; `settings` has the names of `TrainConfig`.
It calls `epoch_done` with the accuracy in 0–1 at the end of every epoch, and waits there until it is asked
for another.
"""
