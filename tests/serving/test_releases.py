"""Release folders and the live pointer."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from model.classifier import Classifier
from model.errors import IntegrityError, NotFoundError
from model.home import Home
from serving.releases import Releases, released


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    return Releases(tmp_path / "releases" / "digits")


def test_nothing_is_live_before_the_first_release(releases: Releases):
    """Asking makes no folder."""
    assert releases.live() is None
    assert not releases.root.exists()


def test_what_is_published_is_live(releases: Releases, saved: Path):
    """The pointer names version, Bento, run and time; the folder holds a classifier that loads."""
    published = releases.publish("3", saved, "digits:3", "run-1")

    assert published == releases.live()
    assert ("3", "digits:3", "run-1") == (published.version, published.bento, published.run_id)
    assert {"version", "bento", "run_id", "published_at"} == set(
        json.loads((releases.root / "live.json").read_bytes())
    )
    Classifier.load(releases.folder("3"))


def test_the_next_release_keeps_the_one_before(
    releases: Releases, saved: Path, make_classifier: Callable[..., Classifier], tmp_path: Path
):
    """Only the pointer moves."""
    make_classifier(seed=1).save(tmp_path / "next")
    releases.publish("3", saved, "digits:3", "run-1")
    releases.publish("4", tmp_path / "next", "digits:4", "run-2")

    assert "4" == releases.live().version
    assert Classifier.load(releases.folder("3")).card != Classifier.load(releases.folder("4")).card


def test_publishing_again_converges(releases: Releases, saved: Path):
    """A retried release writes the same folder and the same pointer."""
    first = releases.publish("3", saved, "digits:3", "run-1")
    again = releases.publish("3", saved, "digits:3", "run-1")

    assert first.model_dump(exclude={"published_at"}) == again.model_dump(exclude={"published_at"})
    assert {"3", "live.json"} == {path.name for path in releases.root.iterdir()}


def test_a_version_is_never_given_to_another_classifier(
    releases: Releases, saved: Path, make_classifier: Callable[..., Classifier], tmp_path: Path
):
    """Refused, and what was live stays live."""
    make_classifier(seed=1).save(tmp_path / "other")
    first = releases.publish("3", saved, "digits:3", "run-1")

    with pytest.raises(IntegrityError, match="another classifier"):
        releases.publish("3", tmp_path / "other", "digits:3", "run-2")

    assert first == releases.live()


def test_an_unsound_classifier_is_not_published(releases: Releases, saved: Path, tmp_path: Path):
    """Neither folder nor pointer appears."""
    shutil.copytree(saved, tmp_path / "bad")
    (tmp_path / "bad" / "weights.safetensors").write_bytes(b"torn")

    with pytest.raises(IntegrityError):
        releases.publish("3", tmp_path / "bad", "digits:3", "run-1")

    assert releases.live() is None
    assert [] == list(releases.root.iterdir())


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"version": "3"}', b"[1]"])
def test_a_pointer_that_says_nothing_is_an_integrity_error(releases: Releases, content: bytes):
    """A file that was never written so is not taken for no release."""
    releases.root.mkdir(parents=True)
    (releases.root / "live.json").write_bytes(content)

    with pytest.raises(IntegrityError, match="is no live pointer"):
        releases.live()


def test_the_only_name_needs_no_naming(saved: Path, tmp_path: Path):
    """One release is found by itself, several by name, and what is missing is told."""
    home = Home(tmp_path, tmp_path)
    with pytest.raises(NotFoundError, match="nothing released yet: run `relearn run`"):
        released(home)

    Releases(home.releases("digits")).publish("3", saved, "digits:3", "run-1")
    assert "digits" == released(home)[0]
    with pytest.raises(NotFoundError, match="nothing released as 'mnist'; released: digits"):
        released(home, "mnist")

    Releases(home.releases("mnist")).publish("1", saved, "mnist:1", "run-2")
    assert "1" == released(home, "mnist")[1].version
    with pytest.raises(NotFoundError, match="choose one: --name digits or --name mnist"):
        released(home)
