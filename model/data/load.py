"""Loading of the dataset that a `TrainConfig` names, in its image size and channels."""

from dataclasses import replace
from pathlib import Path

from relearn.model.config import TrainConfig
from relearn.model.data.builtin import CIFAR10_FOLDER, DATASETS, IDX_FOLDERS, idx_paths
from relearn.model.data.dataset import Dataset
from relearn.model.data.formats import READERS, derive_dataset_name, load_custom
from relearn.model.data.idx import find_idx_or_gz
from relearn.model.errors import DataError
from relearn.model.home import Home
from relearn.model.images.decode import MIN_SIDE
from relearn.model.images.decode_many import MAX_NATIVE_SIDE
from relearn.model.images.resize import resize_batch

FOLDER_GLOBS = ("*", "*/*", "*/*/*")  # class/image, or split/class/image


def load_dataset(config: TrainConfig, home: Home) -> Dataset:
    """Load the dataset that `config` names, in its image size and channels.

    `auto` is MNIST if its files are on disk, else digits; it downloads nothing. A dataset named explicitly
    is downloaded once. Raises DataError or NotFoundError for data that cannot be used for training,
    InfrastructureError for disk and network.
    """
    scheme, _, path = resolve_source(config, home).partition(":")
    dataset = load_custom(scheme, Path(path), config) if path else DATASETS[scheme](home)
    return _resize_to_config(dataset, config)


def resolve_source(config: TrainConfig, home: Home) -> str:
    """Resolve `config.dataset` to a key of DATASETS or to `format:/absolute/path`."""
    requested = config.dataset
    if requested == "auto":
        return "mnist" if all(map(find_idx_or_gz, idx_paths(home, "mnist"))) else "digits"
    if requested in DATASETS:
        return requested
    scheme, _, path = requested.partition(":")
    if scheme not in READERS or not path:
        accepted_forms = [*DATASETS, *(f"{scheme}:PATH" for scheme in READERS)]
        raise DataError(f"dataset: got {requested!r}, accepted: auto, {', '.join(accepted_forms)}")
    return f"{scheme}:{Path(path).expanduser().absolute()}"


def default_model_name(config: TrainConfig, home: Home) -> str:
    """Return `config.model_name`, by default the name of the dataset, which is not loaded."""
    scheme, _, path = resolve_source(config, home).partition(":")
    if config.model_name or not path:
        return config.model_name or scheme
    return derive_dataset_name(scheme, Path(path))


def list_source_files(config: TrainConfig, home: Home) -> list[Path]:
    """List the files of the dataset; before its download they do not exist or are not listed."""
    scheme, _, path = resolve_source(config, home).partition(":")
    if path:
        return [Path(path), *(file for pattern in FOLDER_GLOBS for file in sorted(Path(path).glob(pattern)))]
    if scheme == "cifar10":
        return sorted((home.data / CIFAR10_FOLDER).glob("*"))
    if scheme in IDX_FOLDERS:
        return [find_idx_or_gz(file) or file for file in idx_paths(home, scheme)]
    return []


def _resize_to_config(dataset: Dataset, config: TrainConfig) -> Dataset:
    channels, height, width = dataset.shape
    got = f"{dataset.uri}: the images have {width} × {height} pixels"
    if min(height, width) < MIN_SIDE:
        raise DataError(f"{got}, accepted: {MIN_SIDE} or more a side")
    if config.image_size is None and max(height, width) > MAX_NATIVE_SIDE:
        raise DataError(
            f"{got}; more than {MAX_NATIVE_SIDE} a side needs an image size, such as --image-size 48"
        )
    target_shape = (config.channels or channels, config.image_size or height, config.image_size or width)
    if target_shape == dataset.shape:
        return dataset
    notes = list(dataset.notes)
    if target_shape[0] < channels:
        notes.append("colour is lost: the images have three channels, the network gets one")
    if target_shape[1] < height or target_shape[2] < width:
        notes.append(
            f"resolution is lost: {width} × {height} pixels become {target_shape[2]} × {target_shape[1]}"
        )
    train = replace(dataset.train, images=resize_batch(dataset.train.images, target_shape))
    test = dataset.test and replace(dataset.test, images=resize_batch(dataset.test.images, target_shape))
    return replace(dataset, train=train, test=test, notes=tuple(notes))
