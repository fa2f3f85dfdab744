"""One real `relearn run`, whose state all tests here read; and each test's own environment."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """What a verb sets for the tools that it starts ends with the test."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
