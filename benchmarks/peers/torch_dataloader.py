"""Plain torch loop with a DataLoader."""

from benchmarks.peers.types import EpochEndCallback, Settings, Split
from benchmarks.throughput import plain_fit
from relearn.model.config import TrainConfig
from relearn.model.data.dataset import LabelledImages


def train(
    settings: Settings, train_split: Split, validation_split: Split, on_epoch_end: EpochEndCallback
) -> None:
    plain_fit(
        TrainConfig.parse(settings),
        LabelledImages(*train_split),
        LabelledImages(*validation_split),
        on_epoch_end,
    )
