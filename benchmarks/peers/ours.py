"""Our training loop."""

from benchmarks.peers.types import EpochEndCallback, Settings, Split
from relearn.model.config import TrainConfig
from relearn.model.data.dataset import LabelledImages
from relearn.model.data.splits import Splits
from relearn.model.networks.registry import build_network
from relearn.model.training.fit import fit


def train(
    settings: Settings, train_split: Split, validation_split: Split, on_epoch_end: EpochEndCallback
) -> None:
    config = TrainConfig.parse(settings)
    validation = LabelledImages(*validation_split)
    fit(
        config,
        build_network(config, train_split[0].shape[1:], classes=10),
        Splits(LabelledImages(*train_split), validation, validation),
        classes=10,
        on_epoch=lambda record: on_epoch_end(record.val_accuracy),
    )
