"""Promises of the swap: what is live is loaded beside what is served, proved, and taken in one step."""

import asyncio
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from relearn.model.errors import CorruptDataError
from relearn.model.inference.classifier import Classifier
from relearn.serving.releases.golden import GOLDEN_FILE, Golden
from relearn.serving.releases.ledger import Release
from relearn.serving.releases.store import ReleaseStore
from relearn.serving.runtime import hot_reload
from relearn.serving.runtime.hot_reload import ModelReloader, ServedModel, load_release

Publish = Callable[..., Release]


class Worker:
    """What a worker has of its follower: the swaps in their order, and what was refused when it changed."""

    def __init__(self, releases: ReleaseStore) -> None:
        self.served: list[ServedModel] = []
        self.told: list[tuple[str, str] | None] = []
        self.follower = ModelReloader(
            releases, self.served.append, lambda: self.told.append(self.follower.load_error)
        )

    @property
    def versions(self) -> list[str]:
        return [one.version for one in self.served]

    async def until(self, condition: Callable[[], object]) -> None:
        """Follow until `condition` holds."""
        task = asyncio.create_task(self.follower.watch())
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        task.cancel()


@pytest.fixture
def folders(
    make_classifier: Callable[..., Classifier], save: Callable[[Classifier, Path], Path], tmp_path: Path
) -> dict[str, Path]:
    """Three saved classifiers, by version."""
    return {version: save(make_classifier(seed=int(version)), tmp_path / version) for version in "123"}


@pytest.fixture
def releases(tmp_path: Path, folders: dict[str, Path], publish: Publish) -> ReleaseStore:
    """Version 1 is live."""
    releases = ReleaseStore(tmp_path / "releases" / "digits")
    publish(releases, "1", folders["1"])
    return releases


@pytest.fixture
def worker(releases: ReleaseStore, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """A worker that has begun, and looks often."""
    monkeypatch.setattr(hot_reload, "POLL_INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr(hot_reload, "RETRY_INTERVAL_SECONDS", 0.05)
    worker = Worker(releases)
    worker.follower.load_initial()
    return worker


def test_it_begins_with_what_is_live(worker: Worker, folders: dict[str, Path], images: np.ndarray):
    """Before the first request, and with the answers of that very classifier."""
    assert (["1"], None) == (worker.versions, worker.follower.load_error)
    expected = Classifier.load(folders["1"]).predict(images)
    assert np.array_equal(expected, worker.served[0].classifier.predict(images))


def test_it_follows(worker: Worker, releases: ReleaseStore, folders: dict[str, Path], publish: Publish):
    """Each release in turn, none twice."""

    async def follow() -> None:
        for version in "23":
            publish(releases, version, folders[version])
            await worker.until(lambda version=version: worker.versions[-1] == version)
        await asyncio.sleep(0.2)

    asyncio.run(follow())
    assert ["1", "2", "3"] == worker.versions


def damage(releases: ReleaseStore, version: str, how: str) -> None:
    """Something happens to the folder of a release before any worker has loaded it."""
    folder = releases.version_folder(version)
    if how == "missing":
        shutil.rmtree(folder)
    elif how == "torn weights":
        content = (folder / "weights.safetensors").read_bytes()
        (folder / "weights.safetensors").write_bytes(content[:-10])
    elif how == "another card":
        shutil.copy(releases.version_folder("1") / "card.json", folder)
    else:
        shutil.copy(releases.version_folder("1") / GOLDEN_FILE, folder)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("missing", "cannot be read"),
        ("torn weights", "weights.safetensors is not what was saved"),
        ("another card", "card.json is not what was saved"),
        ("other answers", f"{GOLDEN_FILE} is not what was saved"),
    ],
)
def test_what_is_not_sound_is_not_served(
    worker: Worker, releases: ReleaseStore, folders: dict[str, Path], publish: Publish, how: str, reason: str
):
    """What was live stays, the reason is told without the path of the home, and the next release is taken."""

    async def follow() -> None:
        publish(releases, "2", folders["2"])
        damage(releases, "2", how)
        await worker.until(lambda: worker.told)
        publish(releases, "3", folders["3"])
        await worker.until(lambda: worker.versions[-1] == "3")

    asyncio.run(follow())
    version, told = worker.told[0]
    assert ("2", True) == (version, reason in told)
    assert str(releases.root) not in told
    assert (["1", "3"], None) == (worker.versions, worker.follower.load_error)


def test_wrong_answers_are_not_served(
    releases: ReleaseStore, folders: dict[str, Path], publish: Publish, images: np.ndarray
):
    """Every digest right, and other answers than at the release, as where a library computes otherwise."""
    golden = Golden(images, Classifier.load(folders["3"]).predict(images))
    golden.save(folders["2"])
    release = publish(releases, "2", folders["2"])
    with pytest.raises(CorruptDataError, match="golden requests are off"):
        load_release(releases, release)


def test_what_was_repaired_is_taken(
    worker: Worker, releases: ReleaseStore, folders: dict[str, Path], publish: Publish
):
    """A release that could not be loaded is tried again; once it can, nothing is refused any more."""

    async def follow() -> None:
        publish(releases, "2", folders["2"])
        (releases.version_folder("2") / GOLDEN_FILE).rename(releases.root / "aside")
        await worker.until(lambda: worker.told)
        (releases.root / "aside").rename(releases.version_folder("2") / GOLDEN_FILE)
        await worker.until(lambda: worker.versions[-1] == "2")

    asyncio.run(follow())
    assert (["1", "2"], None) == (worker.versions, worker.told[-1])


def test_a_slow_release_holds_nothing_up(
    worker: Worker,
    releases: ReleaseStore,
    folders: dict[str, Path],
    publish: Publish,
    monkeypatch: pytest.MonkeyPatch,
):
    """One that does not come to an end is told of; a newer one is taken meanwhile, and stays."""
    monkeypatch.setattr(hot_reload, "LOAD_WARNING_SECONDS", 0.1)
    publish(releases, "2", folders["2"])
    weights = releases.version_folder("2") / "weights.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    os.mkfifo(weights)  # reading it waits until somebody writes

    async def follow() -> None:
        await worker.until(lambda: worker.told)
        publish(releases, "3", folders["3"])
        await worker.until(lambda: worker.versions[-1] == "3")
        weights.write_bytes(content)  # the slow one is there at last, and too late
        await asyncio.sleep(0.3)

    asyncio.run(follow())
    assert ("2", "still loading after 0.1 seconds") == worker.told[0]
    assert ["1", "3"] == worker.versions


def test_a_slow_release_is_told_after_another_trouble(
    worker: Worker,
    releases: ReleaseStore,
    folders: dict[str, Path],
    publish: Publish,
    monkeypatch: pytest.MonkeyPatch,
):
    """What was wrong with the one before says nothing of this one."""
    monkeypatch.setattr(hot_reload, "LOAD_WARNING_SECONDS", 0.1)

    async def follow() -> None:
        publish(releases, "2", folders["2"])
        (releases.version_folder("2") / GOLDEN_FILE).unlink()
        await worker.until(lambda: worker.told)
        publish(releases, "3", folders["3"])
        weights = releases.version_folder("3") / "weights.safetensors"
        weights.unlink()
        os.mkfifo(weights)
        await worker.until(lambda: len(worker.told) > 1)
        weights.write_bytes(b"")  # lets the reader go
        await worker.until(lambda: len(worker.told) > 2)

    asyncio.run(follow())
    assert ("3", "still loading after 0.1 seconds") == worker.told[1]


def test_what_goes_wrong_in_telling_ends_nothing(
    releases: ReleaseStore, folders: dict[str, Path], publish: Publish, monkeypatch: pytest.MonkeyPatch
):
    """A worker that could not tell what it refused still takes what comes after it."""
    monkeypatch.setattr(hot_reload, "POLL_INTERVAL_SECONDS", 0.01)
    served: list[ServedModel] = []

    def changed() -> None:
        raise OSError("no room left")

    follower = ModelReloader(releases, served.append, changed)
    follower.load_initial()

    async def follow() -> None:
        task = asyncio.create_task(follower.watch())
        (releases.root / "current.json").write_bytes(b"nonsense")
        await asyncio.sleep(0.1)
        (releases.root / "current.json").unlink()
        publish(releases, "2", folders["2"])
        deadline = time.monotonic() + 20
        while len(served) < 2 and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(follow())
    assert ["1", "2"] == [one.version for one in served]


@pytest.mark.parametrize("content", [b"", b"{}", b"nonsense"])
def test_an_unreadable_pointer_changes_nothing(worker: Worker, releases: ReleaseStore, content: bytes):
    """It is told, and what was live stays."""
    (releases.root / "current.json").write_bytes(content)
    asyncio.run(worker.until(lambda: worker.told))
    assert ["1"] == worker.versions
    assert "is not a live pointer" in worker.told[0][1]


def test_no_release_is_no_trouble(tmp_path: Path):
    """A worker of a server that was started first waits for the first release."""
    worker = Worker(ReleaseStore(tmp_path / "releases" / "digits"))
    worker.follower.load_initial()
    assert ([], None) == (worker.versions, worker.follower.load_error)
