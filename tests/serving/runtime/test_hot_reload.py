"""Hot reload: a new release is loaded in the background, verified, and swapped in."""

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from relearn.model.config import TrainConfig
from relearn.model.errors import CorruptDataError
from relearn.model.inference.classifier import Classifier
from relearn.model.networks.registry import build_network
from relearn.serving.releases.golden import Golden
from relearn.serving.releases.ledger import GOLDEN_FILE, Release
from relearn.serving.releases.store import ReleaseStore
from relearn.serving.runtime import hot_reload
from relearn.serving.runtime.hot_reload import ModelReloader, ServedModel, load_release, load_served_model

Publish = Callable[..., Release]


class Worker:
    """The loaded models and reported load errors of a worker's `ModelReloader`, in order."""

    def __init__(self, releases: ReleaseStore) -> None:
        self.served: list[ServedModel] = []
        self.load_errors: list[tuple[str, str] | None] = []
        self.reloader = ModelReloader(
            releases, self.served.append, lambda: self.load_errors.append(self.reloader.load_error)
        )

    @property
    def versions(self) -> list[str]:
        return [model.version for model in self.served]

    async def watch_until(self, condition: Callable[[], object]) -> None:
        """Watch the ledger until `condition` holds, at most 20 seconds."""
        task = asyncio.create_task(self.reloader.watch())
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        task.cancel()


@pytest.fixture
def folders(
    make_classifier: Callable[..., Classifier], save: Callable[[Classifier, Path], Path], tmp_path: Path
) -> dict[str, Path]:
    """Return the folders of three saved classifiers, by version."""
    return {version: save(make_classifier(seed=int(version)), tmp_path / version) for version in "123"}


@pytest.fixture
def releases(tmp_path: Path, folders: dict[str, Path], publish: Publish) -> ReleaseStore:
    """Create a store whose version 1 is live."""
    releases = ReleaseStore(tmp_path / "releases" / "digits")
    publish(releases, "1", folders["1"])
    return releases


@pytest.fixture
def worker(releases: ReleaseStore, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """Create a worker with its first model loaded and short poll intervals."""
    monkeypatch.setattr(hot_reload, "POLL_INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr(hot_reload, "RETRY_INTERVAL_SECONDS", 0.05)
    worker = Worker(releases)
    worker.reloader.load_initial()
    return worker


def test_initial_load_takes_the_live_release(worker: Worker, folders: dict[str, Path], images: np.ndarray):
    """The live release is loaded before the first request and predicts like its classifier."""
    assert (["1"], None) == (worker.versions, worker.reloader.load_error)
    expected = Classifier.load(folders["1"]).predict(images)
    assert np.array_equal(expected, worker.served[0].classifier.predict(images))


def test_each_release_is_loaded_once(
    worker: Worker, releases: ReleaseStore, folders: dict[str, Path], publish: Publish
):
    """Releases are loaded in order, none twice."""

    async def run_scenario() -> None:
        for version in "23":
            publish(releases, version, folders[version])
            await worker.watch_until(lambda version=version: worker.versions[-1] == version)
        await asyncio.sleep(0.2)

    asyncio.run(run_scenario())
    assert ["1", "2", "3"] == worker.versions


def test_shorter_ledger_is_followed(
    worker: Worker, releases: ReleaseStore, folders: dict[str, Path], publish: Publish
):
    """A ledger that was restored from a backup names an earlier release."""

    async def run_scenario() -> None:
        backup = shutil.copytree(releases.ledger.folder, releases.root / "backup")
        for version in "23":
            publish(releases, version, folders[version])
        await worker.watch_until(lambda: worker.versions[-1] == "3")
        shutil.rmtree(releases.ledger.folder)
        backup.rename(releases.ledger.folder)
        await worker.watch_until(lambda: worker.versions[-1] == "1")

    asyncio.run(run_scenario())


def damage(releases: ReleaseStore, version: str, damage_kind: str) -> None:
    """Damage the folder of a release."""
    folder = releases.version_folder(version)
    if damage_kind == "missing":
        shutil.rmtree(folder)
    elif damage_kind == "truncated weights":
        content = (folder / "weights.safetensors").read_bytes()
        (folder / "weights.safetensors").write_bytes(content[:-10])
    elif damage_kind == "another card":
        shutil.copy(releases.version_folder("1") / "card.json", folder)
    else:
        shutil.copy(releases.version_folder("1") / GOLDEN_FILE, folder)


@pytest.mark.parametrize(
    ("damage_kind", "reason"),
    [
        ("missing", "cannot be read"),
        ("truncated weights", "weights.safetensors is not what was saved"),
        ("another card", "card.json is not what was saved"),
        ("other golden predictions", f"{GOLDEN_FILE} is not what was saved"),
    ],
)
def test_corrupt_release_is_not_served(
    worker: Worker,
    releases: ReleaseStore,
    folders: dict[str, Path],
    publish: Publish,
    damage_kind: str,
    reason: str,
):
    """The previous model stays, the reason shows no path of the home, and the next release is loaded."""

    async def run_scenario() -> None:
        publish(releases, "2", folders["2"])
        damage(releases, "2", damage_kind)
        await worker.watch_until(lambda: worker.load_errors)
        publish(releases, "3", folders["3"])
        await worker.watch_until(lambda: worker.versions[-1] == "3")

    asyncio.run(run_scenario())
    version, reported_reason = worker.load_errors[0]
    assert ("2", True) == (version, reason in reported_reason)
    assert str(releases.root) not in reported_reason
    assert (["1", "3"], None) == (worker.versions, worker.reloader.load_error)


def test_release_with_wrong_golden_predictions_is_not_served(
    releases: ReleaseStore, folders: dict[str, Path], publish: Publish, images: np.ndarray
):
    """Other predictions than at release time are an error, although all digests match."""
    golden = Golden(images, Classifier.load(folders["3"]).predict(images))
    golden.save(folders["2"])
    release = publish(releases, "2", folders["2"])
    with pytest.raises(CorruptDataError, match="golden requests differ by up to"):
        load_release(releases, release)


def test_repaired_release_is_loaded(
    worker: Worker, releases: ReleaseStore, folders: dict[str, Path], publish: Publish
):
    """A failed load is retried; once it succeeds, the load error is cleared."""

    async def run_scenario() -> None:
        publish(releases, "2", folders["2"])
        (releases.version_folder("2") / GOLDEN_FILE).rename(releases.root / "backup")
        await worker.watch_until(lambda: worker.load_errors)
        (releases.root / "backup").rename(releases.version_folder("2") / GOLDEN_FILE)
        await worker.watch_until(lambda: worker.versions[-1] == "2")

    asyncio.run(run_scenario())
    assert (["1", "2"], None) == (worker.versions, worker.load_errors[-1])


WAITING_NETWORK = """
import os, time
from torch import nn

class Net(nn.Sequential):
    def __init__(self, shape, classes):
        super().__init__(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))

    def forward(self, inputs):
        while not os.path.exists({gate!r}):
            time.sleep(0.01)
        return super().forward(inputs)
"""


@pytest.fixture
def gate(
    folders: dict[str, Path],
    save: Callable[[Classifier, Path], Path],
    classifier: Classifier,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Add a version `slow`, whose network waits for this file."""
    gate = tmp_path / "gate"
    gate.touch()
    (tmp_path / "waiting_network.py").write_text(WAITING_NETWORK.format(gate=str(gate)))
    monkeypatch.chdir(tmp_path)
    config = TrainConfig(network="waiting_network:Net")
    network = build_network(config, classifier.card.shape, 10)
    card = classifier.card.model_copy(update={"config": config})
    folders["slow"] = save(Classifier(network, card), tmp_path / "slow")
    del sys.modules["waiting_network"]  # the release imports its own copy
    gate.unlink()
    return gate


def test_slow_load_does_not_block_newer_release(
    worker: Worker,
    releases: ReleaseStore,
    folders: dict[str, Path],
    publish: Publish,
    gate: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """A hanging load is reported; a newer release is loaded meanwhile and stays."""
    monkeypatch.setattr(hot_reload, "LOAD_WARNING_SECONDS", 0.1)

    async def run_scenario() -> None:
        release_slow_version(releases, publish, folders, gate)
        await worker.watch_until(lambda: worker.load_errors)
        publish(releases, "3", folders["3"])
        await worker.watch_until(lambda: worker.versions[-1] == "3")
        gate.touch()  # the slow load finishes too late
        await asyncio.sleep(0.3)

    asyncio.run(run_scenario())
    assert ("2", "still loading after 0.1 seconds") == worker.load_errors[0]
    assert ["1", "3"] == worker.versions


def release_slow_version(
    releases: ReleaseStore, publish: Publish, folders: dict[str, Path], gate: Path
) -> None:
    gate.touch()  # the release loads the network, too
    publish(releases, "2", folders["slow"])
    gate.unlink()


def test_slow_load_is_reported_after_another_error(
    worker: Worker,
    releases: ReleaseStore,
    folders: dict[str, Path],
    publish: Publish,
    gate: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """The load error of the previous release does not hide a slow load."""
    monkeypatch.setattr(hot_reload, "LOAD_WARNING_SECONDS", 0.1)

    async def run_scenario() -> None:
        publish(releases, "3", folders["3"])
        (releases.version_folder("3") / GOLDEN_FILE).unlink()
        await worker.watch_until(lambda: worker.load_errors)
        release_slow_version(releases, publish, folders, gate)
        await worker.watch_until(lambda: len(worker.load_errors) > 1)
        gate.touch()
        await worker.watch_until(lambda: worker.versions[-1] == "2")

    asyncio.run(run_scenario())
    assert ("2", "still loading after 0.1 seconds") == worker.load_errors[1]


def test_error_while_reporting_does_not_stop_the_watch(
    releases: ReleaseStore, folders: dict[str, Path], publish: Publish, monkeypatch: pytest.MonkeyPatch
):
    """A worker that fails to publish its status still loads the next release."""
    monkeypatch.setattr(hot_reload, "POLL_INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr(hot_reload, "RETRY_INTERVAL_SECONDS", 0.05)
    served: list[ServedModel] = []

    def fail_to_report() -> None:
        raise OSError("no room left")

    reloader = ModelReloader(releases, served.append, fail_to_report)
    reloader.load_initial()

    async def run_scenario() -> None:
        task = asyncio.create_task(reloader.watch())
        next_entry = releases.ledger.entry_path(2)
        next_entry.write_bytes(b"nonsense")
        await asyncio.sleep(0.1)
        next_entry.unlink()
        publish(releases, "2", folders["2"])
        deadline = time.monotonic() + 20
        while len(served) < 2 and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(run_scenario())
    assert ["1", "2"] == [model.version for model in served]


def replace_by_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_a_link(path: Path) -> None:
    path.rename(path.parents[2] / "elsewhere")
    path.symlink_to(path.parents[2] / "elsewhere")


def replace_by_a_huge_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse


REPLACEMENTS = [
    (replace_by_a_pipe, "it is not a regular file"),
    (replace_by_a_folder, "Is a directory"),
    (replace_by_a_link, "it is a symbolic link"),
    (replace_by_a_huge_file, "got 1,099,511,627,776 bytes, accepted: at most "),
]


@pytest.mark.parametrize(("replace", "reason"), REPLACEMENTS)
def test_ledger_that_is_no_file_is_refused(
    worker: Worker, releases: ReleaseStore, replace: Callable[[Path], None], reason: str
):
    """It is reported without waiting, and the model stays."""
    path = releases.ledger.entry_path(2)
    path.write_bytes(b"")
    replace(path)
    asyncio.run(worker.watch_until(lambda: worker.load_errors))
    assert (["1"], "?") == (worker.versions, worker.load_errors[0][0])
    assert reason in worker.load_errors[0][1]


@pytest.mark.parametrize(("replace", "reason"), REPLACEMENTS)
@pytest.mark.parametrize("file", ["card.json", "weights.safetensors", GOLDEN_FILE])
def test_release_file_that_is_no_file_is_refused(
    releases: ReleaseStore, file: str, replace: Callable[[Path], None], reason: str
):
    """A load never waits for a pipe, leaves the release folder or fills the memory."""
    replace(releases.version_folder("1") / file)
    with pytest.raises(CorruptDataError, match=f"{file} cannot be read: {reason}"):
        load_release(releases, releases.read_live())


@pytest.mark.parametrize("content", [b"", b"{}", b"nonsense"])
def test_unreadable_ledger_keeps_the_model(worker: Worker, releases: ReleaseStore, content: bytes):
    """An invalid entry is reported, and the model stays."""
    releases.ledger.entry_path(2).write_bytes(content)
    asyncio.run(worker.watch_until(lambda: worker.load_errors))
    assert ["1"] == worker.versions
    assert all("000002.json: " in reason for _, reason in worker.load_errors)


def test_release_whose_digests_were_recomputed_is_refused(
    releases: ReleaseStore, folders: dict[str, Path], publish: Publish, tmp_path: Path
):
    """A folder that agrees with itself is refused: only the digests of the ledger count."""
    release = publish(releases, "2", folders["2"])
    shutil.rmtree(releases.version_folder("2"))
    shutil.copytree(folders["3"], releases.version_folder("2"))
    with pytest.raises(CorruptDataError, match=r"card\.json is not what was saved"):
        load_release(releases, release)
    with pytest.raises(CorruptDataError, match=r"card\.json is not what was saved"):
        load_release(releases, release.model_copy(update={"sha256": {}}))


def test_bundled_classifier_is_checked_against_its_golden_requests(folders: dict[str, Path]):
    """Other weights with a recomputed card are refused even where no ledger is followed."""
    assert "2" == load_served_model(folders["2"], "2", None).version
    for file in ("card.json", "weights.safetensors"):
        shutil.copy(folders["3"] / file, folders["2"] / file)
    with pytest.raises(CorruptDataError, match="golden requests differ by up to"):
        load_served_model(folders["2"], "2", None)


def test_missing_release_is_not_an_error(tmp_path: Path):
    """A worker started before the first release waits for it."""
    worker = Worker(ReleaseStore(tmp_path / "releases" / "digits"))
    worker.reloader.load_initial()
    assert ([], None) == (worker.versions, worker.reloader.load_error)
