"""Checks of a training's settings before anything is started, created or downloaded."""

from collections.abc import Iterable
from pathlib import Path

from relearn.model import devices
from relearn.model.config import TrainConfig
from relearn.model.data.load import resolve_source
from relearn.model.errors import DataError, NotFoundError
from relearn.model.home import Home
from relearn.model.networks.registry import get_network_class


def check_inputs(config: TrainConfig, networks: Iterable[str], home: Home) -> None:
    """Raise the error of an unknown network, device, precision, dataset or path."""
    for network in networks:
        get_network_class(network)
    devices.check_precision(config, devices.resolve_device(config.device))
    scheme, _, path = resolve_source(config, home).partition(":")
    if path and not Path(path).exists():
        raise NotFoundError(f"dataset: {path} does not exist")
    if path and Path(path).is_dir() != (scheme == "folder"):
        got, accepted = ("a folder", "a file") if Path(path).is_dir() else ("a file", "a folder")
        raise DataError(f"dataset: got {path}, which is {got}, accepted after {scheme}: {accepted}")
