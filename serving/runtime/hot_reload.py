"""What a worker serves, and how it follows the live pointer from one release to the next."""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np

from relearn.model.errors import CorruptDataError, RelearnError
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import read_verified
from relearn.serving.releases.golden import Golden
from relearn.serving.releases.ledger import Release
from relearn.serving.releases.store import ReleaseStore

logger = logging.getLogger("bentoml.relearn")  # BentoML's server prints what is logged under its name

POLL_INTERVAL_SECONDS = 0.25  # seconds between two looks at the pointer; a look takes 50 µs
RETRY_INTERVAL_SECONDS = 5.0  # seconds until a release that could not be loaded is tried again
FAST_SECONDS = 0.002  # seconds for one image; the mlp takes 0.0001, the cnn 0.0002
LOAD_WARNING_SECONDS = 10.0  # seconds after which a release that is still loading is told of; 0.1 for the mlp


@dataclass(frozen=True)
class ServedModel:
    """What is being served: a classifier and its version, always replaced together.

    `quick` tells whether a few images take it no longer than a request may keep all others waiting.
    """

    version: str
    classifier: Classifier
    is_fast: bool = True

    @classmethod
    def from_classifier(cls, version: str, classifier: Classifier) -> Self:
        """Measured here, now: the least of three times that one image takes."""
        image, best_seconds = np.zeros((1, *classifier.card.shape), np.uint8), math.inf
        for _ in range(3):
            start = time.perf_counter()
            classifier.predict(image)
            best_seconds = min(best_seconds, time.perf_counter() - start)
        return cls(version, classifier, best_seconds < FAST_SECONDS)


def load_release(store: ReleaseStore, release: Release) -> ServedModel:
    """The classifier of a release, once every digest is right and it answers as it did when released."""
    folder = store.version_folder(release.version)
    for filename, expected_digest in release.sha256.items():
        read_verified(folder / filename, expected_digest)
    classifier = Classifier.load(folder)
    golden = Golden.load(folder)
    golden.check(classifier.predict(golden.images))
    return ServedModel.from_classifier(release.version, classifier)


class ModelReloader:
    """Follows the pointer of `releases` for one worker.

    `swap` is called with each `Live` in the worker's event loop, between two requests. `refused` tells of
    the release that could not be taken, None where there is none; `changed` is called when it changes.
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
        """Take what is live now; what goes wrong is told by `refused`."""
        try:
            self._target_release = self.store.read_current()
            if self._target_release:
                self._on_model_loaded(load_release(self.store, self._target_release))
        except Exception as error:
            self._set_load_error(error)

    async def watch(self) -> None:
        """Look at the pointer for ever. What happens meanwhile to a release never ends this."""
        while True:
            await asyncio.sleep(POLL_INTERVAL_SECONDS)
            try:
                self._poll()
            except Exception:
                logger.exception("what is live cannot be followed just now")

    def _poll(self) -> None:
        try:
            release = self.store.read_current()
        except CorruptDataError as error:
            self._set_load_error(error, "?")
            return
        elapsed_seconds = time.monotonic() - self._load_start
        if release != self._target_release:
            self.load_error = None  # that was another one
            self._load_in_thread(release)
        elif (
            release and self.load_error and not self._is_loading and elapsed_seconds > RETRY_INTERVAL_SECONDS
        ):
            self._load_in_thread(release)
        elif self._is_loading and elapsed_seconds > LOAD_WARNING_SECONDS and not self.load_error:
            self._set_load_error(CorruptDataError(f"still loading after {LOAD_WARNING_SECONDS:g} seconds"))

    def _load_in_thread(self, release: Release | None) -> None:
        """Load in a thread of its own: one that hangs holds up neither requests nor the next release."""
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
        if release != self._target_release:  # a newer one has come meanwhile
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
        reason = reason.replace(f"{self.store.root}/", "")  # clients are told it too
        if self.load_error != (version, reason):
            self.load_error = version, reason
            logger.error("version %s cannot be served, what was live stays: %s", version, reason)
            self._on_status_change()
