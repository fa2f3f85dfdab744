"""Fixtures that tests of other packages use too."""

from tests.flows.cli.conftest import classifier, image_file

__all__ = ["classifier", "image_file"]
