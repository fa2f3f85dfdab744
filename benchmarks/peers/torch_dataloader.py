"""The loop as every introduction to torch writes it."""

from benchmarks.peers.types import EpochDone, Part, Settings
from benchmarks.throughput import plain_fit
from relearn.model.config import TrainConfig
from relearn.model.data.dataset import LabelledImages


def train(settings: Settings, learn: Part, look: Part, epoch_done: EpochDone) -> None:
    plain_fit(TrainConfig.parse(settings), LabelledImages(*learn), LabelledImages(*look), epoch_done)
