"""Our own loop."""

from benchmarks.peers.task import EpochDone, Part, Settings
from relearn.model.config import TrainConfig
from relearn.model.datasets import LabelledImages
from relearn.model.networks import build
from relearn.model.splits import Splits
from relearn.model.training import fit


def train(settings: Settings, learn: Part, look: Part, epoch_done: EpochDone) -> None:
    config = TrainConfig.read(settings)
    looking = LabelledImages(*look)
    fit(
        config,
        build(config, learn[0].shape[1:], classes=10),
        Splits(LabelledImages(*learn), looking, looking),
        classes=10,
        on_epoch=lambda record: epoch_done(record.val_accuracy),
    )
