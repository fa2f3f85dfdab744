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

from relearn.model.classifier import Classifier
from relearn.model.errors import IntegrityError, MachineError, NotFoundError
from relearn.model.home import Home
from relearn.serving.golden import FILE
from relearn.serving.ledger import Release
from relearn.serving.releases import Releases, released

Publish = Callable[..., Release]
Save = Callable[[Classifier, Path], Path]


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    return Releases(tmp_path / "releases" / "digits")


@pytest.fixture
def other(make_classifier: Callable[..., Classifier], save: Save, tmp_path: Path) -> Path:
    """Another saved classifier."""
    return save(make_classifier(seed=1), tmp_path / "other")


def test_nothing_is_live_before_the_first_release(releases: Releases):
    """Asking makes no folder."""
    assert (None, None) == (releases.live(), releases.settle())
    assert not releases.root.exists()


def test_what_is_published_is_live(releases: Releases, saved: Path, publish: Publish):
    """The pointer says what the ledger says; the folder holds a classifier that loads."""
    published = publish(releases, "3", saved)

    assert published == releases.live() == releases.ledger.last().live
    assert {"version", "bento", "run_id", "published_at", "digests"} == set(
        json.loads((releases.root / "live.json").read_bytes())
    )
    assert {"card.json", FILE} == set(published.digests)
    Classifier.load(releases.folder("3"))


def test_the_next_release_keeps_the_one_before(
    releases: Releases, saved: Path, other: Path, publish: Publish
):
    """Only the pointer moves."""
    publish(releases, "3", saved)
    publish(releases, "4", other)

    assert "4" == releases.live().version
    assert Classifier.load(releases.folder("3")).card != Classifier.load(releases.folder("4")).card


def test_keeping_again_changes_nothing(releases: Releases, saved: Path):
    """A release that is tried again finds its folder and leaves it as it is."""
    first = releases.keep("3", saved)
    files = {path: path.stat().st_mtime_ns for path in releases.folder("3").iterdir()}

    assert first == releases.keep("3", saved)
    assert files == {path: path.stat().st_mtime_ns for path in releases.folder("3").iterdir()}
    assert ["3"] == [path.name for path in releases.root.iterdir()]


def test_a_version_is_never_given_to_another_classifier(releases: Releases, saved: Path, other: Path):
    """Refused, and what was there stays."""
    first = releases.keep("3", saved)
    with pytest.raises(IntegrityError, match="another classifier"):
        releases.keep("3", other)
    assert first == releases.keep("3", saved)


@pytest.mark.parametrize("file", ["weights.safetensors", FILE])
def test_an_unsound_folder_is_not_kept(releases: Releases, saved: Path, tmp_path: Path, file: str):
    """Weights that do not fit their card, or golden answers that cannot be read: no folder appears."""
    shutil.copytree(saved, tmp_path / "bad")
    (tmp_path / "bad" / file).write_bytes(b"torn")

    with pytest.raises(IntegrityError):
        releases.keep("3", tmp_path / "bad")
    assert [] == list(releases.root.iterdir())


@pytest.mark.parametrize("file", ["weights.safetensors", "card.json", FILE])
def test_a_folder_that_was_damaged_is_kept_anew(releases: Releases, saved: Path, file: str):
    """A version that is released again is served as it was saved, not as it was found."""
    first = releases.keep("3", saved)
    (releases.folder("3") / file).write_bytes(b"torn")

    assert first == releases.keep("3", saved)
    assert (saved / file).read_bytes() == (releases.folder("3") / file).read_bytes()


@pytest.mark.needs("mount", "umount")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_on_a_full_disk_nothing_is_decided(tmp_path: Path, saved: Path, publish: Publish):
    """Ledger and pointer mean what they meant: what is reported as failed has not happened."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=True)
    try:
        releases = Releases(disk / "digits")
        publish(releases, "3", saved)
        releases.keep("4", saved)
        with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        before = releases.ledger.entries(), releases.live()
        with pytest.raises(MachineError, match="No space left"):
            publish(releases, "4", saved)
        assert before == (releases.ledger.entries(), releases.live())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"version": "3"}', b"[1]"])
def test_a_pointer_that_says_nothing_is_an_integrity_error(releases: Releases, content: bytes):
    """A file that was never written so is not taken for no release."""
    releases.root.mkdir(parents=True)
    (releases.root / "live.json").write_bytes(content)

    with pytest.raises(IntegrityError, match="is no live pointer"):
        releases.live()


@pytest.mark.parametrize("pointer", [None, b"", b"older"])
def test_the_pointer_follows_the_ledger(
    releases: Releases, saved: Path, other: Path, publish: Publish, pointer: bytes | None
):
    """Killed between the two, or edited by hand: the next start puts the pointer right, and says so."""
    publish(releases, "3", saved)
    older = (releases.root / "live.json").read_bytes()
    publish(releases, "4", other)
    path = releases.root / "live.json"
    path.unlink() if pointer is None else path.write_bytes(older if pointer == b"older" else pointer)

    told = releases.settle()
    assert told.endswith("the ledger says 4")
    assert "4" == releases.live().version
    assert releases.settle() is None


def test_reading_needs_no_writing(releases: Releases, saved: Path, publish: Publish):
    """Where pointer and ledger agree, settling leaves not even a lock."""
    publish(releases, "3", saved)
    before = sorted(releases.root.iterdir())
    assert releases.settle() is None
    assert before == sorted(releases.root.iterdir())


DECIDE = """
import sys
from pathlib import Path
from relearn.serving.releases import Releases

releases = Releases(Path(sys.argv[1]))
for _ in range(20):
    with releases.locked():
        last = releases.ledger.last()
        releases.record(actor="test", action="hold", candidate=str(last.number if last else 0), run_id="run",
                        reasons=(), fingerprints={}, before=None, live=None, previous=None)
"""


def test_four_processes_decide_one_after_the_other(releases: Releases):
    """Under the lock each sees what the others have written: no line is lost, none has two followers."""
    command = [sys.executable, "-c", DECIDE, str(releases.root)]
    processes = [subprocess.Popen(command, cwd=Path(__file__).parents[2]) for _ in range(4)]

    assert [0] * 4 == [process.wait() for process in processes]
    entries = releases.ledger.entries()
    assert [str(number) for number in range(80)] == [entry.candidate for entry in entries]


def test_the_only_name_needs_no_naming(saved: Path, tmp_path: Path, publish: Publish):
    """One release is found by itself, several by name, and what is missing is told."""
    home = Home(tmp_path, tmp_path)
    with pytest.raises(NotFoundError, match="nothing released yet: run `relearn run`"):
        released(home)

    publish(Releases(home.releases("digits")), "3", saved)
    assert "digits" == released(home)[0]
    with pytest.raises(NotFoundError, match="nothing released as 'mnist'; released: digits"):
        released(home, "mnist")

    publish(Releases(home.releases("mnist")), "1", saved)
    assert "1" == released(home, "mnist")[1].version
    with pytest.raises(NotFoundError, match="choose one: --name digits or --name mnist"):
        released(home)
