"""Fixtures for tests of figures."""

from collections.abc import Iterator

import matplotlib
import pytest


@pytest.fixture(autouse=True)
def unchanged_rc_params() -> Iterator[None]:
    """Check that no figure changes matplotlib's settings."""
    before = dict(matplotlib.rcParams)
    yield
    assert before == dict(matplotlib.rcParams)
