"""Promises of the release store: release folders, and the live release of the ledger."""

import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from relearn.model.errors import CorruptDataError, InfrastructureError, NotFoundError
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.serving.releases.ledger import GOLDEN_FILE, Release
from relearn.serving.releases.store import ReleaseStore, get_current_release

Publish = Callable[..., Release]
Save = Callable[[Classifier, Path], Path]


@pytest.fixture
def releases(tmp_path: Path) -> ReleaseStore:
    return ReleaseStore(tmp_path / "releases" / "digits")


@pytest.fixture
def second_classifier(make_classifier: Callable[..., Classifier], save: Save, tmp_path: Path) -> Path:
    """The folder of a classifier that differs from `saved`."""
    return save(make_classifier(seed=1), tmp_path / "second")


def test_nothing_is_live_before_the_first_release(releases: ReleaseStore):
    """Reading creates no folder."""
    assert releases.read_live() is None
    assert not releases.root.exists()


def test_published_version_is_live(releases: ReleaseStore, saved: Path, publish: Publish):
    """It is the release of the last decision, and its folder holds a classifier that loads."""
    published = publish(releases, "3", saved)

    assert published == releases.read_live() == releases.find_release("3")
    assert releases.find_release("4") is None
    assert {"card.json", GOLDEN_FILE} == set(published.sha256)
    Classifier.load(releases.version_folder("3"))


def test_new_release_keeps_previous_version(
    releases: ReleaseStore, saved: Path, second_classifier: Path, publish: Publish
):
    """Its folder stays as it was."""
    publish(releases, "3", saved)
    publish(releases, "4", second_classifier)

    assert "4" == releases.read_live().version
    assert (
        Classifier.load(releases.version_folder("3")).card
        != Classifier.load(releases.version_folder("4")).card
    )


def test_adding_a_version_twice_changes_nothing(releases: ReleaseStore, saved: Path):
    """A repeated release finds its folder and leaves it unchanged."""
    checksums = releases.add_version("3", saved)
    files = {path: path.stat().st_mtime_ns for path in releases.version_folder("3").iterdir()}

    assert checksums == releases.add_version("3", saved)
    assert files == {path: path.stat().st_mtime_ns for path in releases.version_folder("3").iterdir()}
    assert ["3"] == [path.name for path in releases.root.iterdir()]


def test_digests_of_the_ledger_decide_what_is_loaded(
    releases: ReleaseStore, saved: Path, second_classifier: Path, publish: Publish
):
    """A classifier in the place of a released one is not loaded, though its card has the right digests."""
    publish(releases, "3", saved)
    assert Classifier.load(saved).card == releases.load("3").card == releases.read_card("3")
    shutil.copytree(second_classifier, releases.version_folder("3"), dirs_exist_ok=True)

    assert Classifier.load(releases.version_folder("3")).card.config.seed == 1
    for load in (releases.load, releases.read_card):
        with pytest.raises(CorruptDataError, match=r"card\.json is not what was saved"):
            load("3")


def test_version_that_was_never_live_is_loaded(releases: ReleaseStore, saved: Path):
    """The ledger names no digests of a candidate that was not released; those of its card are checked."""
    releases.add_version("3", saved)
    assert Classifier.load(saved).card == releases.load("3").card


def test_version_is_never_reused_for_another_classifier(
    releases: ReleaseStore, saved: Path, second_classifier: Path
):
    """The second classifier is rejected and the stored one stays."""
    checksums = releases.add_version("3", saved)
    with pytest.raises(CorruptDataError, match="another classifier"):
        releases.add_version("3", second_classifier)
    assert checksums == releases.add_version("3", saved)


@pytest.mark.parametrize("file", ["weights.safetensors", GOLDEN_FILE])
def test_damaged_classifier_is_not_stored(releases: ReleaseStore, saved: Path, tmp_path: Path, file: str):
    """Weights that do not match their card or unreadable golden requests leave no folder."""
    shutil.copytree(saved, tmp_path / "bad")
    (tmp_path / "bad" / file).write_bytes(b"torn")

    with pytest.raises(CorruptDataError):
        releases.add_version("3", tmp_path / "bad")
    assert [] == list(releases.root.iterdir())


@pytest.mark.parametrize("file", ["weights.safetensors", "card.json", GOLDEN_FILE])
def test_damaged_release_folder_is_replaced(releases: ReleaseStore, saved: Path, file: str):
    """Adding the version again restores the saved files."""
    checksums = releases.add_version("3", saved)
    (releases.version_folder("3") / file).write_bytes(b"torn")

    assert checksums == releases.add_version("3", saved)
    assert (saved / file).read_bytes() == (releases.version_folder("3") / file).read_bytes()


@pytest.mark.needs("mount", "umount")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_full_disk_leaves_the_ledger_unchanged(tmp_path: Path, saved: Path, publish: Publish):
    """A release that is reported as failed has no effect."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=True)
    try:
        releases = ReleaseStore(disk / "digits")
        publish(releases, "3", saved)
        releases.add_version("4", saved)
        with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        before = releases.ledger.read_entries()
        with suppress(InfrastructureError):  # the last page of the ledger has room for a few entries
            while len(before) < 50:
                publish(releases, "4", saved)
                before = releases.ledger.read_entries()
        with pytest.raises(InfrastructureError, match="No space left"):
            publish(releases, "4", saved)
        assert before == releases.ledger.read_entries()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_only_released_model_is_the_default(saved: Path, tmp_path: Path, publish: Publish):
    """With several models the name is required; errors list the released names."""
    home = Home(tmp_path, tmp_path)
    with pytest.raises(NotFoundError, match="nothing released yet: run `relearn run`"):
        get_current_release(home)

    publish(ReleaseStore(home.releases_dir("digits")), "3", saved)
    assert "digits" == get_current_release(home)[0]
    with pytest.raises(NotFoundError, match="nothing released as 'mnist'; released: digits"):
        get_current_release(home, "mnist")

    publish(ReleaseStore(home.releases_dir("mnist")), "1", saved)
    assert "1" == get_current_release(home, "mnist")[1].version
    with pytest.raises(NotFoundError, match="choose one: --model-name digits or --model-name mnist"):
        get_current_release(home)
