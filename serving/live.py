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

from relearn.model.classifier import Classifier, read_verified
from relearn.model.errors import IntegrityError, RelearnError
from relearn.serving.golden import Golden
from relearn.serving.ledger import Release
from relearn.serving.releases import Releases

logger = logging.getLogger("bentoml.relearn")  # BentoML's server prints what is logged under its name

POLL = 0.25  # seconds between two looks at the pointer; a look takes 50 µs
RETRY = 5.0  # seconds until a release that could not be loaded is tried again
BRIEF = 0.002  # seconds for one image; the mlp takes 0.0001, the cnn 0.0002
SLOW = 10.0  # seconds after which a release that is still loading is told of; 0.1 for the mlp


@dataclass(frozen=True)
class Live:
    """What is being served: a classifier and its version, always replaced together.

    `quick` tells whether a few images take it no longer than a request may keep all others waiting.
    """

    version: str
    classifier: Classifier
    quick: bool = True

    @classmethod
    def of(cls, version: str, classifier: Classifier) -> Self:
        """Measured here, now: the least of three times that one image takes."""
        image, least = np.zeros((1, *classifier.card.shape), np.uint8), math.inf
        for _ in range(3):
            start = time.perf_counter()
            classifier.predict(image)
            least = min(least, time.perf_counter() - start)
        return cls(version, classifier, least < BRIEF)


def load(releases: Releases, release: Release) -> Live:
    """The classifier of a release, once every digest is right and it answers as it did when released."""
    folder = releases.folder(release.version)
    for name, expected in release.digests.items():
        read_verified(folder / name, expected)
    classifier = Classifier.load(folder)
    golden = Golden.load(folder)
    golden.check(classifier.predict(golden.images))
    return Live.of(release.version, classifier)


class Follower:
    """Follows the pointer of `releases` for one worker.

    `swap` is called with each `Live` in the worker's event loop, between two requests. `refused` tells of
    the release that could not be taken, None where there is none; `changed` is called when it changes.
    """

    def __init__(self, releases: Releases, swap: Callable[[Live], None], changed: Callable[[], None]) -> None:
        self.releases = releases
        self.refused: tuple[str, str] | None = None
        self._swap, self._changed = swap, changed
        self._wanted: Release | None = None
        self._since = 0.0
        self._loading = False

    def begin(self) -> None:
        """Take what is live now; what goes wrong is told by `refused`."""
        try:
            self._wanted = self.releases.live()
            if self._wanted:
                self._swap(load(self.releases, self._wanted))
        except Exception as error:
            self._refuse(error)

    async def follow(self) -> None:
        """Look at the pointer for ever. What happens meanwhile to a release never ends this."""
        while True:
            await asyncio.sleep(POLL)
            try:
                self._look()
            except Exception:
                logger.exception("what is live cannot be followed just now")

    def _look(self) -> None:
        try:
            release = self.releases.live()
        except IntegrityError as error:
            self._refuse(error, "?")
            return
        late = time.monotonic() - self._since
        if release != self._wanted:
            self.refused = None  # that was another one
            self._take(release)
        elif release and self.refused and not self._loading and late > RETRY:
            self._take(release)
        elif self._loading and late > SLOW and not self.refused:
            self._refuse(IntegrityError(f"still loading after {SLOW:g} seconds"))

    def _take(self, release: Release | None) -> None:
        """Load in a thread of its own: one that hangs holds up neither requests nor the next release."""
        self._wanted, self._since = release, time.monotonic()
        if release is None:
            return
        self._loading = True
        loop = asyncio.get_running_loop()

        def attempt() -> None:
            try:
                outcome: Live | Exception = load(self.releases, release)
            except Exception as error:
                outcome = error
            loop.call_soon_threadsafe(self._finish, release, outcome)

        threading.Thread(target=attempt, daemon=True).start()

    def _finish(self, release: Release, outcome: Live | Exception) -> None:
        if release != self._wanted:  # a newer one has come meanwhile
            return
        self._loading = False
        if isinstance(outcome, Exception):
            self._refuse(outcome)
            return
        self.refused = None
        self._swap(outcome)
        self._changed()

    def _refuse(self, error: Exception, version: str = "") -> None:
        version = version or (self._wanted.version if self._wanted else "?")
        told = str(error) if isinstance(error, RelearnError) else f"{type(error).__name__}: {error}"
        told = told.replace(f"{self.releases.root}/", "")  # clients are told it too
        if self.refused != (version, told):
            self.refused = version, told
            logger.error("version %s cannot be served, what was live stays: %s", version, told)
            self._changed()
