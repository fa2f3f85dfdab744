"""Our own loop."""

from benchmarks.peers.types import EpochDone, Part, Settings
from relearn.model.config import TrainConfig
from relearn.model.data.dataset import LabelledImages
from relearn.model.data.splits import Splits
from relearn.model.networks.registry import build_network
from relearn.model.training.fit import fit


def train(settings: Settings, learn: Part, look: Part, epoch_done: EpochDone) -> None:
    config = TrainConfig.parse(settings)
    looking = LabelledImages(*look)
    fit(
        config,
        build_network(config, learn[0].shape[1:], classes=10),
        Splits(LabelledImages(*learn), looking, looking),
        classes=10,
        on_epoch=lambda record: epoch_done(record.val_accuracy),
    )
