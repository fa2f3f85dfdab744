"""Hot reload: the served model of a worker, replaced when the ledger names another release."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from timeit import repeat
from typing import Self

import numpy as np

from relearn.model.checksums import read_verified
from relearn.model.errors import CorruptDataError, InvalidModelOutputError, RelearnError
from relearn.model.inference.classifier import Classifier
from relearn.serving.logger import logger
from relearn.serving.releases.golden import Golden
from relearn.serving.releases.ledger import GOLDEN_FILE, Release
from relearn.serving.releases.store import ReleaseStore, read_released_card

POLL_INTERVAL_SECONDS = 0.25  # seconds between two looks for the ledger's next entry; one takes 2 µs
RETRY_INTERVAL_SECONDS = 5.0  # seconds until a failed load, or an unreadable ledger, is tried again
LOAD_WARNING_SECONDS = 10.0  # seconds after which a load is reported as slow; the mlp takes 0.1
INLINE_SECONDS = 0.001  # a longer pass would delay all other requests of the event loop
INLINE_SIZES = (1, 4, 16, 64)  # images


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A classifier and its version, always replaced together.

    Up to `inline_images` images may be predicted in the event loop, which blocks all other requests.
    """

    version: str
    classifier: Classifier
    inline_images: int = 0

    @classmethod
    def from_classifier(cls, version: str, classifier: Classifier) -> Self:
        """Return a served model; `inline_images` is measured."""
        return cls(version, classifier, measure_inline_images(classifier))

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Predict as `Classifier.predict` does; whatever a network raises is an `InvalidModelOutputError`.

        A `KeyboardInterrupt` or `CancelledError` of a network would end the worker or the request.
        """
        try:
            return self.classifier.predict(images)
        except Exception:
            raise
        except BaseException as error:
            name = self.classifier.card.config.network
            raise InvalidModelOutputError(f"network {name} raised {type(error).__name__}", error) from error


def measure_inline_images(classifier: Classifier) -> int:
    """Return how many images `classifier` predicts within `INLINE_SECONDS`; 0 for a custom network.

    The time of our networks depends on the number of images alone. That of a custom network may depend on
    the pixels, so it always runs in a thread, which costs 100 µs a request.
    """
    inline_images = 0
    if classifier.card.is_custom:
        return inline_images
    for size in INLINE_SIZES:
        images = np.zeros((size, *classifier.card.shape), np.uint8)
        if min(repeat(partial(classifier.predict, images), number=1, repeat=3)) > INLINE_SECONDS:
            break
        inline_images = size
    return inline_images


def load_release(store: ReleaseStore, release: Release) -> ServedModel:
    """Load the classifier of `release`; raise `CorruptDataError` if digests or golden predictions differ."""
    return load_served_model(store.version_folder(release.version), release.version, release.sha256)


def load_served_model(folder: Path, version: str, sha256: Mapping[str, str] | None) -> ServedModel:
    """Load the classifier in `folder` and check its golden predictions.

    `sha256` are the digests that the ledger names for `version`; None for a Bento without its ledger.
    Raises `CorruptDataError` if a digest or golden prediction differs.
    """
    card = read_released_card(folder, sha256)
    if sha256 is None:
        golden = Golden.load(folder)
    else:
        golden = Golden.parse(read_verified(folder / GOLDEN_FILE, sha256.get(GOLDEN_FILE, "")))
    served_model = ServedModel.from_classifier(version, Classifier.load(folder, card))
    golden.check(served_model.predict(golden.images))
    return served_model


class ModelReloader:
    """A follower of the ledger in `store`, for one worker.

    `on_model_loaded` is called with each new `ServedModel` in the worker's event loop, between two requests.
    `load_error` is the version and reason of a release that failed to load, else None. `on_status_change` is
    called when `load_error` changes.
    """

    def __init__(
        self,
        store: ReleaseStore,
        on_model_loaded: Callable[[ServedModel], None],
        on_status_change: Callable[[], None],
    ) -> None:
        self.store = store
        self.load_error: tuple[str, str] | None = None
        self._on_model_loaded, self._on_status_change = on_model_loaded, on_status_change
        self._entry_number = 0  # of the last entry that was read
        self._target_release: Release | None = None
        self._load_start = 0.0
        self._is_loading = False

    def load_initial(self) -> None:
        """Load the live release; an error is stored in `load_error`."""
        try:
            if last_entry := self.store.ledger.read_last():
                self._entry_number, self._target_release = last_entry.number, last_entry.live
            if self._target_release:
                self._on_model_loaded(load_release(self.store, self._target_release))
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # a network's code may raise anything
            self._set_load_error(error)

    async def watch(self) -> None:
        """Poll the ledger and load each new release, forever; errors are logged and do not end it."""
        while True:
            await asyncio.sleep(POLL_INTERVAL_SECONDS)
            try:
                await self._poll()
            except Exception:
                logger.exception("the ledger could not be followed, retrying")

    async def _poll(self) -> None:
        has_next, has_current = (
            os.path.lexists(self.store.ledger.entry_path(self._entry_number + step)) for step in (1, 0)
        )
        if has_next or (self._entry_number and not has_current):  # a shorter ledger may have been restored
            try:
                last_entry = await asyncio.to_thread(self.store.ledger.read_last)
            except RelearnError as error:
                self._set_load_error(error, "?")
                await asyncio.sleep(RETRY_INTERVAL_SECONDS)
                return
            if last_entry is None:  # the ledger was deleted in this moment
                return
            self._entry_number, release = last_entry.number, last_entry.live
            if release != self._target_release:
                self.load_error = None  # it belonged to the previous target
                self._load_in_thread(release)
                return
        elapsed_seconds = time.monotonic() - self._load_start
        if self._is_loading:
            if elapsed_seconds > LOAD_WARNING_SECONDS and not self.load_error:
                message = f"still loading after {LOAD_WARNING_SECONDS:g} seconds"
                self._set_load_error(CorruptDataError(message))
        elif self._target_release and self.load_error and elapsed_seconds > RETRY_INTERVAL_SECONDS:
            self._load_in_thread(self._target_release)

    def _load_in_thread(self, release: Release | None) -> None:
        """Load `release` in a thread: a load that hangs blocks neither requests nor the next release."""
        self._target_release, self._load_start = release, time.monotonic()
        if release is None:
            return
        self._is_loading = True
        loop = asyncio.get_running_loop()

        def load_and_report() -> None:
            try:
                result: ServedModel | BaseException = load_release(self.store, release)
            except BaseException as error:  # a network's code may raise anything
                result = error
            loop.call_soon_threadsafe(self._finish_load, release, result)

        threading.Thread(target=load_and_report, daemon=True).start()

    def _finish_load(self, release: Release, result: ServedModel | BaseException) -> None:
        if release != self._target_release:  # a newer release is the target now
            return
        self._is_loading = False
        if isinstance(result, BaseException):
            self._set_load_error(result)
            return
        self.load_error = None
        self._on_model_loaded(result)
        self._on_status_change()

    def _set_load_error(self, error: BaseException, version: str = "") -> None:
        version = version or (self._target_release.version if self._target_release else "?")
        reason = str(error) if isinstance(error, RelearnError) else f"{type(error).__name__}: {error}"
        reason = reason.replace(f"{self.store.root}/", "")  # clients see the reason too
        if self.load_error != (version, reason):
            self.load_error = version, reason
            logger.error("version %s cannot be served, the previous version stays live: %s", version, reason)
            self._on_status_change()
