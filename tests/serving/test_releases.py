"""Release folders, the live pointer, and its agreement with the ledger."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from relearn.model.errors import CorruptDataError, InfrastructureError, NotFoundError
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.serving.releases.golden import GOLDEN_FILE
from relearn.serving.releases.ledger import Release
from relearn.serving.releases.store import ReleaseStore, get_current_release

Publish = Callable[..., Release]
Save = Callable[[Classifier, Path], Path]


@pytest.fixture
def releases(tmp_path: Path) -> ReleaseStore:
    return ReleaseStore(tmp_path / "releases" / "digits")


@pytest.fixture
def other(make_classifier: Callable[..., Classifier], save: Save, tmp_path: Path) -> Path:
    """Another saved classifier."""
    return save(make_classifier(seed=1), tmp_path / "other")


def test_nothing_is_live_before_the_first_release(releases: ReleaseStore):
    """Asking makes no folder."""
    assert (None, None) == (releases.read_current(), releases.repair_pointer())
    assert not releases.root.exists()


def test_what_is_published_is_live(releases: ReleaseStore, saved: Path, publish: Publish):
    """The pointer says what the ledger says; the folder holds a classifier that loads."""
    published = publish(releases, "3", saved)

    assert published == releases.read_current() == releases.ledger.read_last().live
    assert {"version", "bento", "run_id", "published_at", "sha256"} == set(
        json.loads((releases.root / "current.json").read_bytes())
    )
    assert {"card.json", GOLDEN_FILE} == set(published.sha256)
    Classifier.load(releases.version_folder("3"))


def test_the_next_release_keeps_the_one_before(
    releases: ReleaseStore, saved: Path, other: Path, publish: Publish
):
    """Only the pointer moves."""
    publish(releases, "3", saved)
    publish(releases, "4", other)

    assert "4" == releases.read_current().version
    assert (
        Classifier.load(releases.version_folder("3")).card
        != Classifier.load(releases.version_folder("4")).card
    )


def test_keeping_again_changes_nothing(releases: ReleaseStore, saved: Path):
    """A release that is tried again finds its folder and leaves it as it is."""
    first = releases.add_version("3", saved)
    files = {path: path.stat().st_mtime_ns for path in releases.version_folder("3").iterdir()}

    assert first == releases.add_version("3", saved)
    assert files == {path: path.stat().st_mtime_ns for path in releases.version_folder("3").iterdir()}
    assert ["3"] == [path.name for path in releases.root.iterdir()]


def test_a_version_is_never_given_to_another_classifier(releases: ReleaseStore, saved: Path, other: Path):
    """Refused, and what was there stays."""
    first = releases.add_version("3", saved)
    with pytest.raises(CorruptDataError, match="another classifier"):
        releases.add_version("3", other)
    assert first == releases.add_version("3", saved)


@pytest.mark.parametrize("file", ["weights.safetensors", GOLDEN_FILE])
def test_an_unsound_folder_is_not_kept(releases: ReleaseStore, saved: Path, tmp_path: Path, file: str):
    """Weights that do not fit their card, or golden answers that cannot be read: no folder appears."""
    shutil.copytree(saved, tmp_path / "bad")
    (tmp_path / "bad" / file).write_bytes(b"torn")

    with pytest.raises(CorruptDataError):
        releases.add_version("3", tmp_path / "bad")
    assert [] == list(releases.root.iterdir())


@pytest.mark.parametrize("file", ["weights.safetensors", "card.json", GOLDEN_FILE])
def test_a_folder_that_was_damaged_is_kept_anew(releases: ReleaseStore, saved: Path, file: str):
    """A version that is released again is served as it was saved, not as it was found."""
    first = releases.add_version("3", saved)
    (releases.version_folder("3") / file).write_bytes(b"torn")

    assert first == releases.add_version("3", saved)
    assert (saved / file).read_bytes() == (releases.version_folder("3") / file).read_bytes()


@pytest.mark.needs("mount", "umount")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_on_a_full_disk_nothing_is_decided(tmp_path: Path, saved: Path, publish: Publish):
    """Ledger and pointer mean what they meant: what is reported as failed has not happened."""
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
        before = releases.ledger.read_entries(), releases.read_current()
        with pytest.raises(InfrastructureError, match="No space left"):
            publish(releases, "4", saved)
        assert before == (releases.ledger.read_entries(), releases.read_current())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"version": "3"}', b"[1]"])
def test_a_pointer_that_says_nothing_is_an_integrity_error(releases: ReleaseStore, content: bytes):
    """A file that was never written so is not taken for no release."""
    releases.root.mkdir(parents=True)
    (releases.root / "current.json").write_bytes(content)

    with pytest.raises(CorruptDataError, match="is no live pointer"):
        releases.read_current()


@pytest.mark.parametrize("pointer", [None, b"", b"older"])
def test_the_pointer_follows_the_ledger(
    releases: ReleaseStore, saved: Path, other: Path, publish: Publish, pointer: bytes | None
):
    """Killed between the two, or edited by hand: the next start puts the pointer right, and says so."""
    publish(releases, "3", saved)
    older = (releases.root / "current.json").read_bytes()
    publish(releases, "4", other)
    path = releases.root / "current.json"
    path.unlink() if pointer is None else path.write_bytes(older if pointer == b"older" else pointer)

    told = releases.repair_pointer()
    assert told.endswith("the ledger says 4")
    assert "4" == releases.read_current().version
    assert releases.repair_pointer() is None


def test_reading_needs_no_writing(releases: ReleaseStore, saved: Path, publish: Publish):
    """Where pointer and ledger agree, settling leaves not even a lock."""
    publish(releases, "3", saved)
    before = sorted(releases.root.iterdir())
    assert releases.repair_pointer() is None
    assert before == sorted(releases.root.iterdir())


DECIDE = """
import sys
from pathlib import Path
from relearn.serving.releases.store import ReleaseStore

releases = ReleaseStore(Path(sys.argv[1]))
for _ in range(20):
    with releases.locked():
        last = releases.ledger.read_last()
        number = str(last.number if last else 0)
        releases.append_decision(actor="test", action="hold", subject=number, run_id="run",
                        reasons=(), fingerprints={}, previous_live=None, live=None, rollback_target=None)
"""


def test_four_processes_decide_one_after_the_other(releases: ReleaseStore):
    """Under the lock each sees what the others have written: no line is lost, none has two followers."""
    command = [sys.executable, "-c", DECIDE, str(releases.root)]
    processes = [subprocess.Popen(command, cwd=Path(__file__).parents[2]) for _ in range(4)]

    assert [0] * 4 == [process.wait() for process in processes]
    entries = releases.ledger.read_entries()
    assert [str(number) for number in range(80)] == [entry.subject for entry in entries]


def test_the_only_name_needs_no_naming(saved: Path, tmp_path: Path, publish: Publish):
    """One release is found by itself, several by name, and what is missing is told."""
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
