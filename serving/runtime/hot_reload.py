"""Hot reload: the served model of a worker, replaced when the release pointer changes."""

import asyncio
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np

from relearn.model.checksums import read_verified
from relearn.model.errors import CorruptDataError, RelearnError
from relearn.model.inference.classifier import Classifier
from relearn.serving.logger import logger
from relearn.serving.releases.golden import Golden
from relearn.serving.releases.ledger import Release
from relearn.serving.releases.store import ReleaseStore

POLL_INTERVAL_SECONDS = 0.25  # seconds between two reads of the pointer; a read takes 50 µs
RETRY_INTERVAL_SECONDS = 5.0  # seconds until a failed load is retried
FAST_SECONDS = 0.002  # seconds for one image; the mlp takes 0.0001, the cnn 0.0002
LOAD_WARNING_SECONDS = 10.0  # seconds after which a load is reported as slow; the mlp takes 0.1


@dataclass(frozen=True)
class ServedModel:
    """A classifier and its version, always replaced together.

    `is_fast` says whether it may predict a few images in the event loop, which blocks all other requests.
    """

    version: str
    classifier: Classifier
    is_fast: bool = True

    @classmethod
    def from_classifier(cls, version: str, classifier: Classifier) -> Self:
        """Return a served model; `is_fast` is measured as the fastest of three predictions of one image."""
        image, best_seconds = np.zeros((1, *classifier.card.shape), np.uint8), math.inf
        for _ in range(3):
            start = time.perf_counter()
            classifier.predict(image)
            best_seconds = min(best_seconds, time.perf_counter() - start)
        return cls(version, classifier, best_seconds < FAST_SECONDS)


def load_release(store: ReleaseStore, release: Release) -> ServedModel:
    """Load the classifier of `release`; raise `CorruptDataError` if digests or golden predictions differ."""
    folder = store.version_folder(release.version)
    for filename, expected_digest in release.sha256.items():
        read_verified(folder / filename, expected_digest)
    classifier = Classifier.load(folder)
    golden = Golden.load(folder)
    golden.check(classifier.predict(golden.images))
    return ServedModel.from_classifier(release.version, classifier)


class ModelReloader:
    """A watcher of the release pointer in `store`, for one worker.

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
        self._target_release: Release | None = None
        self._load_start = 0.0
        self._is_loading = False

    def load_initial(self) -> None:
        """Load the current release; an error is stored in `load_error`."""
        try:
            self._target_release = self.store.read_current()
            if self._target_release:
                self._on_model_loaded(load_release(self.store, self._target_release))
        except Exception as error:
            self._set_load_error(error)

    async def watch(self) -> None:
        """Poll the live pointer and load each new release, forever; errors are logged and do not end it."""
        while True:
            await asyncio.sleep(POLL_INTERVAL_SECONDS)
            try:
                self._poll()
            except Exception:
                logger.exception("the release pointer could not be read, retrying")

    def _poll(self) -> None:
        try:
            release = self.store.read_current()
        except CorruptDataError as error:
            self._set_load_error(error, "?")
            return
        elapsed_seconds = time.monotonic() - self._load_start
        if release != self._target_release:
            self.load_error = None  # it belonged to the previous target
            self._load_in_thread(release)
        elif (
            release and self.load_error and not self._is_loading and elapsed_seconds > RETRY_INTERVAL_SECONDS
        ):
            self._load_in_thread(release)
        elif self._is_loading and elapsed_seconds > LOAD_WARNING_SECONDS and not self.load_error:
            self._set_load_error(CorruptDataError(f"still loading after {LOAD_WARNING_SECONDS:g} seconds"))

    def _load_in_thread(self, release: Release | None) -> None:
        """Load `release` in a thread: a load that hangs blocks neither requests nor the next release."""
        self._target_release, self._load_start = release, time.monotonic()
        if release is None:
            return
        self._is_loading = True
        loop = asyncio.get_running_loop()

        def load_and_report() -> None:
            try:
                result: ServedModel | Exception = load_release(self.store, release)
            except Exception as error:
                result = error
            loop.call_soon_threadsafe(self._finish_load, release, result)

        threading.Thread(target=load_and_report, daemon=True).start()

    def _finish_load(self, release: Release, result: ServedModel | Exception) -> None:
        if release != self._target_release:  # a newer release is the target now
            return
        self._is_loading = False
        if isinstance(result, Exception):
            self._set_load_error(result)
            return
        self.load_error = None
        self._on_model_loaded(result)
        self._on_status_change()

    def _set_load_error(self, error: Exception, version: str = "") -> None:
        version = version or (self._target_release.version if self._target_release else "?")
        reason = str(error) if isinstance(error, RelearnError) else f"{type(error).__name__}: {error}"
        reason = reason.replace(f"{self.store.root}/", "")  # clients see the reason too
        if self.load_error != (version, reason):
            self.load_error = version, reason
            logger.error("version %s cannot be served, the previous version stays live: %s", version, reason)
            self._on_status_change()
