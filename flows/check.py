"""What a training is refused for before anything is started, made or downloaded."""

from collections.abc import Iterable
from pathlib import Path

from model import datasets, devices
from model.config import TrainConfig
from model.errors import NotFoundError
from model.home import Home
from model.networks import network_class


def check(config: TrainConfig, networks: Iterable[str], home: Home) -> None:
    """Raise what a network, device, dataset or path that is not there would raise later."""
    for network in networks:
        network_class(network)
    devices.resolve(config.device)
    path = datasets.source(config, home).partition(":")[2]
    if path and not Path(path).exists():
        raise NotFoundError(f"dataset: {path} is not there")
