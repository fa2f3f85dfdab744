"""Whatever fits the document at `/openapi.json` is answered, whatever does not is refused, as it says."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.serving.config import ServeConfig
from relearn.serving.deployment.packaging import build_bento
from relearn.serving.deployment.server import Server, start_server

HOOKS = Path(__file__).parent / "hooks"
SHAPE = (1, 8, 8)  # arbitrary images of 28 × 28 take minutes to make up


@pytest.fixture(scope="module")
def small(
    make_classifier: Callable[..., Classifier],
    keys: tuple[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """A server of small images that wants a key."""
    root = tmp_path_factory.mktemp("small")
    home = Home(root, root)
    make_classifier(seed=0, shape=SHAPE).save(root / "saved")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BENTOML_HOME", raising=False)
        bento = build_bento(root / "saved", "digits", "1", home)
        started = start_server(
            bento, ServeConfig(port=0, max_images=4, graceful_timeout_seconds=2), home, api_keys=keys[0]
        )
    try:
        started.wait_until_ok("/readyz")
        yield started
    finally:
        started.stop()


def findings(server: Server, key: str, examples: int) -> str:
    """What schemathesis says after all its checks on every route; nothing where it found nothing."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"),
            *("--checks", "all", "--max-examples", str(examples), "--header", f"X-API-Key: {key}"),
            *("--no-color", "--generation-database", "none"),
        ],
        env=os.environ | {"SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(HOOKS)},
        cwd=server.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Tested: 13" in done.stdout, done.stdout + done.stderr
    return "" if done.returncode == 0 else done.stdout


def test_the_api_is_as_its_document_says(small: Server, keys: tuple[str, str]):
    """Every route, media type and parameter: what fits and what does not, with a key and without."""
    found = findings(small, keys[0], examples=25)
    assert not found, found


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_the_api_is_as_its_document_says_at_length(small: Server, keys: tuple[str, str]):
    """The same, many times."""
    found = findings(small, keys[0], examples=500)
    assert not found, found
