"""Checks of a training: its settings before anything is started, the classes of its data before it trains."""

import difflib
import textwrap
from collections.abc import Iterable
from pathlib import Path

from relearn.model import devices
from relearn.model.config import HEAD_SETTINGS, TrainConfig
from relearn.model.data.load import resolve_source
from relearn.model.errors import DataError, NotFoundError
from relearn.model.home import Home
from relearn.model.networks.pretrained import Pretrained
from relearn.model.networks.pretrained_weights import check_weights
from relearn.model.networks.registry import get_network_class


def check_inputs(config: TrainConfig, networks: Iterable[str], home: Home) -> None:
    """Raise the error of an unknown network, missing weights, or of device, precision, dataset or path."""
    for network in networks:
        if get_network_class(network) is Pretrained:
            check_weights(network)
    devices.check_precision(config, devices.resolve_device(config.device))
    scheme, _, path = resolve_source(config, home).partition(":")
    if path and not Path(path).exists():
        raise NotFoundError(f"dataset: {path} does not exist")
    if path and Path(path).is_dir() != (scheme == "folder"):
        got, accepted = ("a folder", "a file") if Path(path).is_dir() else ("a file", "a folder")
        raise DataError(f"dataset: got {path}, which is {got}, accepted after {scheme}: {accepted}")


def list_ignored_settings(network: str, names: Iterable[str]) -> list[str]:
    """Return which of the settings `names` have no effect on `network`: of a pretrained one, most."""
    if get_network_class(network) is not Pretrained:
        return []
    return sorted(set(names) & set(TrainConfig.model_fields) - HEAD_SETTINGS)


def describe_class_change(classes: tuple[str, ...], live_classes: tuple[str, ...]) -> str:
    """Return which `classes` are new, missing or perhaps renamed, compared with `live_classes`; "" if none.

    A missing class may be renamed if a new one has a similar name, or if there is one of each.
    """
    added = [name for name in classes if name not in live_classes]
    missing = [name for name in live_classes if name not in classes]
    folded = {name.casefold(): name for name in added}
    questions = []
    for name in missing:
        is_only_one = len(added) == len(missing) == 1
        for match in difflib.get_close_matches(name.casefold(), folded, 1, 0.0 if is_only_one else 0.6):
            questions.append(f"was {name} renamed to {folded[match]}?")
    lists = {"new": added, "missing": missing}
    changes = [
        f"{label}: {textwrap.shorten(', '.join(names), 100)}" for label, names in lists.items() if names
    ]
    return "; ".join([*changes, *questions[:3]]) or ("another order" if classes != live_classes else "")
