"""Schemathesis: the API accepts what its OpenAPI document allows, and rejects everything else."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.serving.config import ServeConfig
from relearn.serving.deployment.build_bento import build_bento
from relearn.serving.deployment.server import Server, start_server
from relearn.serving.releases.golden import Golden

HOOKS = Path(__file__).parent / "hooks"
SHAPE = (1, 8, 8)  # generating images of 28 × 28 takes minutes


@pytest.fixture(scope="module")
def small_image_server(
    make_classifier: Callable[..., Classifier],
    api_keys: tuple[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """Start a server of 8 × 8 images with API keys."""
    root = tmp_path_factory.mktemp("small")
    home = Home(root, root)
    classifier = make_classifier(seed=0, shape=SHAPE)
    classifier.save(root / "saved")
    Golden.from_classifier(classifier, np.zeros((1, *SHAPE), np.uint8)).save(root / "saved")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BENTOML_HOME", raising=False)
        bento = build_bento(root / "saved", "digits", "1", home)
        server = start_server(
            bento, ServeConfig(port=0, max_images=4, graceful_timeout_seconds=2), home, api_keys=api_keys[0]
        )
    try:
        server.wait_until_ok("/readyz")
        yield server
    finally:
        server.stop()


def run_schemathesis(server: Server, key: str, examples: int) -> str:
    """Run all checks of schemathesis on every route; return its output if a check failed, else ''."""
    result = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"),
            *("--checks", "all", "--max-examples", str(examples), "--header", f"X-API-Key: {key}"),
            *("--no-color", "--generation-database", "none"),
            # The length of its data follows from its shape, which JSON Schema cannot express.
            *("--exclude-path", "/v2/models/{model_name}/infer"),
        ],
        env=os.environ | {"SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(HOOKS)},
        cwd=server.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Tested: 22" in result.stdout, result.stdout + result.stderr
    return "" if result.returncode == 0 else result.stdout


def test_api_matches_its_document(small_image_server: Server, api_keys: tuple[str, str]):
    """Valid and invalid requests to every route, with and without key, get the documented responses."""
    failures = run_schemathesis(small_image_server, api_keys[0], examples=25)
    assert not failures, failures


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_api_matches_its_document_with_500_examples(small_image_server: Server, api_keys: tuple[str, str]):
    """The same holds with 500 examples per route."""
    failures = run_schemathesis(small_image_server, api_keys[0], examples=500)
    assert not failures, failures
