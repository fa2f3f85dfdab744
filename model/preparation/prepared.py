"""Prepared datasets on disk: split once, then memory-mapped."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from relearn.model.checksums import compute_sha256
from relearn.model.config import TrainConfig
from relearn.model.data.dataset import Dataset, LabelledImages
from relearn.model.data.dataset_names import register_dataset_name
from relearn.model.data.load import list_source_files, load_dataset, resolve_source
from relearn.model.data.splits import Splits, get_groups, hash_contents, hash_sources, split_dataset
from relearn.model.description.source_description import DataDescription
from relearn.model.errors import CorruptDataError, DataError, InfrastructureError
from relearn.model.file_lock import locked
from relearn.model.files import atomic_folder, remove_leftovers, to_csv
from relearn.model.home import Home
from relearn.model.images.allocate import allocate_in
from relearn.model.images.decode_many import OnProgress, ignore_progress
from relearn.model.images.resize import ImageStyle
from relearn.model.images.scale import BYTE_WHITE
from relearn.model.preparation.extra_images import ExtraImages, MergeSummary, merge_extra_images
from relearn.model.preparation.validation import Finding, validate_dataset
from relearn.model.sources.tree import walk

FORMAT = 12  # version of the folder and of all code that fills it; raise it whenever either changes
DATA_SETTINGS = ("image_size", "channels", "limit", "test_fraction", "validation_fraction")
SPLITS = ("train", "validation", "test")
NO_EXTRA_IMAGES = ExtraImages()
MANIFEST_FILE = "manifest.json"
IMAGES_FILE = "images.csv"  # split, class, hash of the pixels, and file or row of each image
LOCK_TIMEOUT_SECONDS = 600.0  # for another process to download and prepare the same data


class PreparedDataset(BaseModel):
    """A folder with images, labels, sources and groups of each split as .npy, described by `manifest.json`.

    `fingerprint` is the SHA-256 of the unsplit dataset and of the changes by `extra_images`. `shape` is
    channels, height, width. `counts` are the images by split and class, `files` maps each file to its
    SHA-256. `description` says how a custom source was read, `listed_files` is a digest of the files that a
    table lists, `settings` are the data settings. `rebuild_reason` says why an earlier folder was replaced,
    None if none was.
    """

    model_config = ConfigDict(frozen=True)

    folder: Path = Field(exclude=True)
    rebuild_reason: str | None = Field(None, exclude=True)
    listed_files: str | None = None
    settings: dict[str, float | None] = {}
    name: str
    uri: str
    classes: tuple[str, ...]
    style: ImageStyle
    shape: tuple[int, int, int]
    fingerprint: str
    extra_images: MergeSummary | None
    counts: dict[str, list[int]]
    findings: list[Finding]
    files: dict[str, str]
    description: DataDescription | None = None

    @property
    def scale(self) -> int:
        """Value that is white in bare numbers, 255 for image files that declare their depth."""
        return (self.description and self.description.scale) or BYTE_WHITE

    @property
    def splits(self) -> Splits:
        """Images of each split with labels, sources and groups, memory-mapped from disk."""
        return Splits(*map(self._load_split, SPLITS))

    def _load_split(self, name: str) -> LabelledImages:
        arrays = {
            array_name: np.load(self.folder / f"{name}_{array_name}.npy", mmap_mode="r")
            for array_name in ("images", "labels", "sources", "groups")
        }
        return LabelledImages(**arrays)


def prepare_dataset(
    config: TrainConfig,
    home: Home,
    extra_images: ExtraImages = NO_EXTRA_IMAGES,
    on_progress: OnProgress = ignore_progress,
) -> PreparedDataset:
    """Load, split and validate the dataset of `config` with `extra_images`, or reuse its prepared folder.

    A folder is reused as long as the source's files (path, size, modification time), the data settings and
    the extra images are the same; a damaged folder is replaced. Of two processes that prepare the same data,
    the second waits for the first. Images are kept in files from their decoding on, so memory does not grow
    with their number, except for arrays in npz files. Raises `DataError` with all findings of level
    `error`, `InfrastructureError` after `LOCK_TIMEOUT_SECONDS`.
    """
    try:
        home.dataset_cache.mkdir(parents=True, exist_ok=True)
        with _writing(home.dataset_cache / _cache_key(config, home, extra_images), config, home):
            return _load_or_build(config, home, extra_images, on_progress)
    except OSError as error:
        raise InfrastructureError(
            f"cannot prepare the data in {home.dataset_cache}: {error.strerror or error}"
        ) from None


def load_prepared(folder: Path) -> PreparedDataset:
    """Load the dataset prepared in `folder`; raise CorruptDataError if a file is missing or changed.

    Comparing every SHA-256 takes 0.04 s for MNIST, 0.8 s for a GB.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST_FILE).read_bytes())
        prepared = PreparedDataset.model_validate({**manifest, "folder": folder})
        changed = [name for name, digest in prepared.files.items() if compute_sha256(folder / name) != digest]
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        manifest_file = folder / MANIFEST_FILE
        raise CorruptDataError(f"{manifest_file} or one of its files is damaged: {reason}") from None
    if changed:
        raise CorruptDataError(f"{folder / changed[0]} was changed after it was written: its SHA-256 differs")
    return prepared


def find_prepared(config: TrainConfig, home: Home, fingerprint: str) -> PreparedDataset | None:
    """Return the data of this fingerprint as it was prepared with the settings of `config`, if it is kept.

    The source may have changed since.
    """
    wanted = {
        "uri": resolve_source(config, home),
        "settings": _data_settings(config),
        "fingerprint": fingerprint,
    }
    for file in sorted(home.dataset_cache.glob(f"*/{MANIFEST_FILE}")):
        with suppress(CorruptDataError, OSError, ValueError):
            if wanted.items() <= json.loads(file.read_bytes()).items():
                _record_use(file.parent)
                return load_prepared(file.parent)
    return None


def _record_use(folder: Path) -> None:
    """Set the time of a folder: `relearn home prune` deletes data that no run has used lately."""
    with suppress(OSError):  # it may be another user's
        os.utime(folder)


def lock_prepared(folder: Path) -> AbstractContextManager[None]:
    """Hold the lock of a prepared folder; raise `InfrastructureError` while a process prepares it."""
    return locked(_lock_file(folder), f"{folder} is being prepared")


def _lock_file(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.lock"


@contextmanager
def _writing(folder: Path, config: TrainConfig, home: Home) -> Iterator[None]:
    """Wait until no other process writes `folder`, and delete what killed ones left there."""
    lock_file = _lock_file(folder)
    busy_message = (
        f"another process has been preparing {resolve_source(config, home)} for"
        f" {LOCK_TIMEOUT_SECONDS / 60:.0f} minutes: wait for it to finish, or end the process that holds"
        f" {lock_file}"
    )
    with locked(lock_file, busy_message, LOCK_TIMEOUT_SECONDS):
        remove_leftovers(folder)
        yield


def _load_or_build(
    config: TrainConfig, home: Home, extra_images: ExtraImages, on_progress: OnProgress
) -> PreparedDataset:
    folder = home.dataset_cache / _cache_key(config, home, extra_images)
    allocate = allocate_in(home.dataset_cache)
    rebuild_reason: str | None
    try:
        prepared = load_prepared(folder)
        if prepared.listed_files == _digest_listed_files(prepared.description):
            _record_use(folder)
            return prepared
        rebuild_reason = f"the images that {prepared.uri} lists have changed"
    except CorruptDataError as error:
        rebuild_reason = str(error) if folder.exists() else None
    dataset = load_dataset(config, home, allocate, on_progress)
    if dataset.description is not None:
        register_dataset_name(dataset.uri, dataset.name, home)
    splits = split_dataset(dataset, config.test_fraction, config.validation_fraction, allocate)
    left_out = sum(map(len, dataset.splits.values())) - sum(map(len, vars(splits).values()))
    merge_summary = None
    if extra_images.digest:
        splits, merge_summary = merge_extra_images(
            dataset, splits, extra_images, config.validation_fraction, allocate
        )
    findings = validate_dataset(dataset, splits)
    if merge_summary and merge_summary.rejected:
        message = "extra images were rejected: unknown class, another shape, or equal to a test image"
        findings.append(Finding("warning", "extra images", message, merge_summary.rejected))
    if left_out:
        message = "images are left out of training, as a test image equals them, nearly, or is of their group"
        findings.append(Finding("warning", "shared group", message, left_out))
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        raise DataError("; ".join(f"{dataset.uri}: {error}" for error in errors))
    final_folder = home.dataset_cache / _cache_key(config, home, extra_images)
    with ExitStack() as stack:
        if final_folder != folder:  # by a download
            folder = final_folder
            stack.enter_context(_writing(folder, config, home))
        temporary = stack.enter_context(atomic_folder(folder))
        for name in SPLITS:
            split = getattr(splits, name)
            np.save(temporary / f"{name}_images.npy", split.images)
            np.save(temporary / f"{name}_labels.npy", split.labels)
            np.save(temporary / f"{name}_sources.npy", hash_sources(split))
            np.save(temporary / f"{name}_groups.npy", get_groups(split))
        _write_image_list(temporary / IMAGES_FILE, splits, dataset.classes)
        prepared = PreparedDataset(
            folder=folder,
            rebuild_reason=rebuild_reason,
            name=dataset.name,
            uri=dataset.uri,
            classes=dataset.classes,
            style=dataset.style,
            shape=dataset.shape,
            fingerprint=_compute_fingerprint(dataset, merge_summary),
            extra_images=merge_summary,
            counts={
                name: np.bincount(getattr(splits, name).labels, minlength=len(dataset.classes)).tolist()
                for name in SPLITS
            },
            findings=findings,
            description=dataset.description,
            listed_files=_digest_listed_files(dataset.description),
            settings=_data_settings(config),
            files={file.name: compute_sha256(file) for file in sorted(temporary.iterdir())},
        )
        (temporary / MANIFEST_FILE).write_text(prepared.model_dump_json(indent=2))
    return prepared


def read_image_list(path: Path | str) -> pd.DataFrame:
    """Read an IMAGES_FILE, or that of a prepared folder, as text."""
    file = Path(path) / IMAGES_FILE if Path(path).is_dir() else path
    return pd.read_csv(file, dtype=str, keep_default_na=False)


def _write_image_list(file: Path, splits: Splits, classes: tuple[str, ...]) -> None:
    tables = [
        pd.DataFrame(
            {
                "split": name,
                "class": np.array(classes, dtype=object)[split.labels],
                "hash": [f"{content_hash:016x}" for content_hash in hash_contents(split.images)],
                "file": "" if split.places is None else split.places,
            }
        )
        for name, split in vars(splits).items()
    ]
    file.write_text(to_csv(pd.concat(tables)), encoding="utf-8")


def _compute_fingerprint(dataset: Dataset, merge_summary: MergeSummary | None) -> str:
    if merge_summary is None or not merge_summary.digest:
        return dataset.fingerprint
    return hashlib.sha256(f"{dataset.fingerprint} {merge_summary.digest}".encode()).hexdigest()


def _cache_key(config: TrainConfig, home: Home, extra_images: ExtraImages) -> str:
    """Return the folder name: scheme of the source, 16 hex digits of the hash of source and settings, and of
    the hash of the extra images, if any. It is the same after a move of the home.
    """
    uri = resolve_source(config, home)
    files = list_source_files(config, home)
    names = [file.relative_to(home.data) if file.is_relative_to(home.data) else file for file in files]
    file_stamps = [(str(name), *_size_and_mtime(file)) for name, file in zip(names, files, strict=True)]
    stamp = repr((FORMAT, uri, file_stamps, _data_settings(config)))
    digest = hashlib.sha256(stamp.encode()).hexdigest()
    suffix = f"-{extra_images.digest[:16]}" if extra_images.digest else ""
    return f"{uri.partition(':')[0]}-{digest[:16]}{suffix}"


def _data_settings(config: TrainConfig) -> dict[str, float | None]:
    return {name: getattr(config, name) for name in DATA_SETTINGS}


def _digest_listed_files(description: DataDescription | None) -> str | None:
    """Return a digest of the files beside a table that lists them; None if the source is all there is."""
    if description is None or description.layout != "file_list" or description.source.is_dir():
        return None
    folder = description.source.parent
    stamps = [(name, *_size_and_mtime(folder / name)) for name in walk(folder)]
    return hashlib.sha256(repr(stamps).encode()).hexdigest()


def _size_and_mtime(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns
