"""Changes to BentoML's servers, and the versions that they were made for."""

from importlib import metadata

import pytest

from relearn.model.errors import InfrastructureError
from relearn.serving.http.patches import VERSIONS, apply_patches


def test_patches_are_made_for_the_installed_versions():
    """An update of uvicorn or BentoML fails here first."""
    assert VERSIONS == {library: metadata.version(library)[: len(VERSIONS[library])] for library in VERSIONS}


@pytest.mark.parametrize("version", ["0.55.0", "0.5", "1.0", "0.540.1"])
def test_other_versions_are_refused(monkeypatch: pytest.MonkeyPatch, version: str):
    """The server does not start without its limits; the message has both versions."""
    installed = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: version if name == "uvicorn" else installed(name))

    with pytest.raises(InfrastructureError, match=f"uvicorn: got version {version}, accepted: 0.54;"):
        apply_patches()
