"""Loading of the dataset that a `TrainConfig` names, in its image size and channels."""

from dataclasses import replace
from pathlib import Path
from typing import cast

from relearn.model.config import TrainConfig
from relearn.model.data.builtin import CIFAR10_FOLDER, DATASETS, IDX_FOLDERS, idx_paths
from relearn.model.data.custom import load_custom
from relearn.model.data.dataset import Dataset
from relearn.model.data.dataset_names import find_dataset_name
from relearn.model.data.groups import assign_groups
from relearn.model.data.idx import find_idx_or_gz
from relearn.model.description.raw_dataset import MAX_NAMED_FILES, DamagedImagesError, ReadOptions
from relearn.model.description.source_description import read_choices
from relearn.model.errors import DataError, InfrastructureError
from relearn.model.files import write_bytes_atomically
from relearn.model.home import Home
from relearn.model.images.allocate import Allocate, allocate_in_memory
from relearn.model.images.decode import MIN_SIDE
from relearn.model.images.decode_many import COLOR_IS_LOST, MAX_NATIVE_SIDE, OnProgress, ignore_progress
from relearn.model.images.resize import resize_batch
from relearn.model.sources.tree import KINDS, SourceKind, recognize_kind, walk


def load_dataset(
    config: TrainConfig,
    home: Home,
    allocate: Allocate = allocate_in_memory,
    on_progress: OnProgress = ignore_progress,
) -> Dataset:
    """Load the dataset that `config` names, in its image size and channels.

    `auto` is MNIST if its files are on disk, else digits; it downloads nothing. A dataset named explicitly
    is downloaded once. Raises DataError or NotFoundError for data that cannot be used for training,
    InfrastructureError for disk and network.
    """
    uri = resolve_source(config, home)
    kind, _, path = uri.partition(":")
    if not path:
        dataset = DATASETS[kind](home)
        dataset = dataset.with_splits(assign_groups(dataset.splits, dataset.style))
        return _resize_to_config(dataset, config, allocate)
    name = find_dataset_name(uri, _source_path(kind, path), home)
    options = ReadOptions(config.image_size, config.channels, config.limit, allocate, on_progress)
    try:
        dataset = load_custom(cast(SourceKind, kind), Path(path), options, name)
    except DamagedImagesError as error:
        if len(error.damaged) > MAX_NAMED_FILES:
            raise DataError(f"{error}; all names are in {_list_damaged(error, home, name)}") from None
        raise
    dataset = _resize_to_config(dataset, config, allocate)
    _check_fingerprint(dataset)
    return dataset


def resolve_source(config: TrainConfig, home: Home) -> str:
    """Resolve `config.dataset` to a key of DATASETS or to `kind:/absolute/path`."""
    requested = config.dataset
    if requested == "auto":
        return "mnist" if all(map(find_idx_or_gz, idx_paths(home, "mnist"))) else "digits"
    if requested in DATASETS:
        return requested
    kind, _, path = requested.partition(":")
    if kind in (*KINDS, "toml") and path:
        return f"{kind}:{_expand(path)}"
    looks_like_path = "/" in requested and ":" not in requested.partition("/")[0]
    if requested and (looks_like_path or _expand(requested).exists()):
        return f"{recognize_kind(_expand(requested))}:{_expand(requested)}"
    accepted_forms = [*DATASETS, *(f"{kind}:PATH" for kind in KINDS), "a path, dataset.toml"]
    raise DataError(f"dataset: got {requested!r}, accepted: auto, {', '.join(accepted_forms)}")


def default_model_name(config: TrainConfig, home: Home) -> str:
    """Return `config.model_name`, by default the name of the dataset, which is not loaded."""
    uri = resolve_source(config, home)
    kind, _, path = uri.partition(":")
    if config.model_name or not path:
        return config.model_name or kind
    return find_dataset_name(uri, _source_path(kind, path), home)


def list_source_files(config: TrainConfig, home: Home) -> list[Path]:
    """List the files of the dataset; before its download they do not exist or are not listed."""
    kind, _, path = resolve_source(config, home).partition(":")
    if path:
        source = _source_path(kind, path)
        return [Path(path), source, *(source / name for name in (walk(source) if source.is_dir() else ()))]
    if kind == "cifar10":
        return sorted((home.data / CIFAR10_FOLDER).glob("*"))
    if kind in IDX_FOLDERS:
        return [find_idx_or_gz(file) or file for file in idx_paths(home, kind)]
    return []


def _expand(path: str) -> Path:
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:
        raise DataError(f"dataset: got {path!r}, whose home folder is unknown, accepted: a path") from None


def _source_path(kind: str, path: str) -> Path:
    """Return the path of the data, which a dataset.toml names."""
    return cast(Path, read_choices(Path(path))["source"]) if kind == "toml" else Path(path)


def _list_damaged(error: DamagedImagesError, home: Home, name: str) -> Path:
    """Write the names of all damaged images to a file and return its path."""
    file = home.dataset_cache / f"{name}-damaged.txt"
    lines = [f"{image.name}\t{image.reason}\t{image.sha256}\n" for image in error.damaged]
    try:
        write_bytes_atomically(file, "".join(lines).encode(errors="replace"))
    except OSError as os_error:
        raise InfrastructureError(f"cannot write {file}: {os_error.strerror}") from None
    return file


def _check_fingerprint(dataset: Dataset) -> None:
    """Raise DataError if the description pins the fingerprint of other data."""
    pinned = dataset.description and dataset.description.fingerprint
    if pinned and pinned != dataset.fingerprint:
        raise DataError(
            f"{dataset.uri}: got data with fingerprint {dataset.fingerprint}, accepted: {pinned}, as its "
            "dataset.toml says. Restore the data and the options --image-size, --channels and --limit, or "
            "remove the line `fingerprint`"
        )


def _resize_to_config(dataset: Dataset, config: TrainConfig, allocate: Allocate) -> Dataset:
    channels, height, width = dataset.shape
    got = f"{dataset.uri}: the images have {width} × {height} pixels"
    if min(height, width) < MIN_SIDE:
        raise DataError(f"{got}, accepted: {MIN_SIDE} or more a side")
    side = config.image_size or (dataset.description and dataset.description.image_size)
    if side is None and max(height, width) > MAX_NATIVE_SIDE:
        side = MAX_NATIVE_SIDE
    target_shape = (config.channels or channels, side or height, side or width)
    if target_shape == dataset.shape:
        return dataset
    notes = list(dataset.notes)
    if target_shape[0] < channels:
        notes.append(COLOR_IS_LOST)
    if target_shape[1] < height or target_shape[2] < width:
        notes.append(
            f"resolution is lost: {width} × {height} pixels become {target_shape[2]} × {target_shape[1]}"
        )

    splits = {
        name: replace(split, images=resize_batch(split.images, target_shape, allocate))
        for name, split in dataset.splits.items()
    }
    return replace(dataset.with_splits(splits), notes=tuple(notes))
