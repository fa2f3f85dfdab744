"""Promises of the released classifier that the servers under test share."""

from pathlib import Path

import numpy as np

from benchmarks.server_fixtures import NAME, VERSION, publish
from benchmarks.swap import SHAPE, build_classifier
from relearn.model.home import Home
from relearn.serving.releases.golden import Golden
from relearn.serving.releases.store import ReleaseStore


def test_published_version_is_live(tmp_path: Path) -> None:
    """The version that a benchmark publishes is the one that a server of this home serves."""
    home, saved, classifier = Home(tmp_path, tmp_path), tmp_path / "saved", build_classifier(seed=0)
    classifier.save(saved)
    Golden.from_classifier(classifier, np.zeros((1, *SHAPE), np.uint8)).save(saved)

    publish(home, saved, f"{NAME}:{VERSION}")

    current = ReleaseStore(home.releases_dir(NAME)).read_live()
    assert current is not None
    assert (current.version, current.bento) == (VERSION, f"{NAME}:{VERSION}")
