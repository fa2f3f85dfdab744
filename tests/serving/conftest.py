"""Fixtures of all serving tests: a real Bento in BentoML's own server process, HTTP over a socket."""

import importlib.metadata
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from relearn.model.config import TrainConfig
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.networks.summary import count_parameters
from relearn.serving.config import ServeConfig
from relearn.serving.deployment.build_bento import build_bento
from relearn.serving.deployment.requirements import REQUIREMENTS
from relearn.serving.deployment.server import Server, start_server
from relearn.serving.releases.golden import Golden
from relearn.serving.releases.ledger import Release
from relearn.serving.releases.store import ReleaseStore

SHAPE = (1, 28, 28)

# A sitecustomize.py for the server that blocks imports of packages outside a Bento's requirements.
IMPORT_BLOCKER = """
import sys

class BlockingFinder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"no module named {{name!r}}", name=name)

sys.meta_path.insert(0, BlockingFinder())
"""

BENTOML_CLIENT = """
import json, sys
import bentoml, numpy as np

url, key, file = sys.argv[1:]
try:
    with bentoml.SyncHTTPClient(url, token=key or None) as client:
        for batch in np.load(file).values():
            print(json.dumps(client.predict_images(images=batch)))
except bentoml.exceptions.BentoMLException as error:
    print(json.dumps(f"{error.error_code} {error}"))
"""


@pytest.fixture(autouse=True)
def _isolated_bentoml_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep BentoML's stores in the home folder of the test."""
    monkeypatch.delenv("BENTOML_HOME", raising=False)


@pytest.fixture(scope="session")
def make_classifier() -> Callable[..., Classifier]:
    """Return a factory of untrained networks whose predictions differ between images."""
    return _make_classifier


def _make_classifier(seed: int, shape: tuple[int, int, int] = SHAPE) -> Classifier:
    torch.manual_seed(seed)
    config = TrainConfig(hidden_sizes=(32,), seed=seed)
    network = build_network(config, shape, classes=10)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(4)
    card = ModelCard(
        config=config,
        dataset="digits",
        classes=tuple("0123456789"),
        shape=shape,
        style="mnist",
        fingerprint="0" * 64,
        parameters=count_parameters(network),
    )
    return Classifier(network, card)


@pytest.fixture(scope="session")
def config() -> ServeConfig:
    """Return the settings of a server on a free port with low limits."""
    return ServeConfig(port=0, max_images=64, max_body_bytes=300_000, graceful_timeout_seconds=2)


@pytest.fixture(scope="session")
def classifier() -> Classifier:
    return _make_classifier(seed=0)


@pytest.fixture(scope="session")
def saved(
    classifier: Classifier, save: Callable[[Classifier, Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the folder of the saved classifier, golden predictions included."""
    return save(classifier, tmp_path_factory.mktemp("saved") / "classifier")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    root = tmp_path_factory.mktemp("serving")
    return Home(root, root / "data")


@pytest.fixture(scope="session")
def publish() -> Callable[..., Release]:
    """Return a function that releases a saved classifier, as a flow does."""

    def publish(releases: ReleaseStore, version: str, folder: Path, run_id: str = "run-1") -> Release:
        previous = releases.read_live()
        live = Release(
            version=version,
            bento=f"{releases.root.name}:{version}",
            run_id=run_id,
            published_at=datetime.now(UTC),
            sha256=releases.add_version(version, folder),
        )
        releases.ledger.append(
            releases.ledger.read_last(),
            actor="test",
            action="promote",
            subject=version,
            run_id=run_id,
            reasons=("a test",),
            fingerprints={},
            previous_live=previous.version if previous else None,
            live=live,
            rollback_target=previous.version if previous else None,
        )
        return live

    return publish


@pytest.fixture(scope="session")
def save(images: np.ndarray) -> Callable[[Classifier, Path], Path]:
    """Return a function that saves a classifier with its golden predictions."""

    def save(classifier: Classifier, folder: Path) -> Path:
        classifier.save(folder)
        Golden.from_classifier(classifier, images).save(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def bento(saved: Path, home: Home) -> str:
    """Build a Bento of the classifier, version 3."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BENTOML_HOME", raising=False)
        return build_bento(saved, "digits", "3", home)


@pytest.fixture(scope="session")
def server(
    bento: str, config: ServeConfig, home: Home, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Start the real server, in processes that can import the Bento's requirements only."""
    blocker_folder = tmp_path_factory.mktemp("blocker")
    (blocker_folder / "sitecustomize.py").write_text(IMPORT_BLOCKER.format(blocked=find_unpinned_modules()))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BENTOML_HOME", raising=False)
        patch.setenv("PYTHONPATH", str(blocker_folder))
        server = start_server(bento, config, home)
    try:
        server.wait_until_ok("/readyz")
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client:
        yield client


API_KEYS = ("first-key-0123456789", "second-key-0123456789")


@pytest.fixture(scope="session")
def api_keys() -> tuple[str, str]:
    """Return the API keys of `server_with_keys`: the first from the environment, the second from a file."""
    return API_KEYS


@pytest.fixture(scope="session")
def server_with_keys(bento: str, home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a server with API keys, two concurrent requests at most and a timeout of 2 seconds."""
    file = tmp_path_factory.mktemp("api_keys") / "api_keys"
    file.write_text(f"# for rotation\n{API_KEYS[1]}\n")
    config = ServeConfig(
        port=0, max_concurrency=2, timeout_seconds=2, graceful_timeout_seconds=4, api_keys_file=file
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BENTOML_HOME", raising=False)
        server = start_server(bento, config, home, api_keys=API_KEYS[0])
    try:
        server.wait_until_ok("/readyz")
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def client_with_key(server_with_keys: Server) -> Iterator[httpx.Client]:
    """Connect to `server_with_keys` with a valid key."""
    headers = {"authorization": f"Bearer {API_KEYS[0]}"}
    with httpx.Client(base_url=server_with_keys.url, trust_env=False, timeout=30, headers=headers) as client:
        yield client


@pytest.fixture(scope="session")
def predict_with_bentoml(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Any]]:
    """Return a function that sends arrays with BentoML's client and returns the responses or the error text.

    The client runs in a separate process.
    """

    def predict(url: str, *batches: np.ndarray, key: str = "") -> list[Any]:
        file = tmp_path_factory.mktemp("batches") / "batches.npz"
        np.savez(file, *batches)
        command = [sys.executable, "-W", "ignore", "-c", BENTOML_CLIENT, url, key, str(file)]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        return [json.loads(line) for line in result.stdout.splitlines()]

    return predict


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """Return 64 random images in MNIST's form, uint8 (64, 1, 28, 28)."""
    images = np.zeros((64, *SHAPE), np.uint8)
    images[..., 5:24, 5:24] = np.random.default_rng(0).integers(0, 256, (64, 1, 19, 19))
    return images


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    """Return a function that encodes an image, uint8 (channels, height, width), as an image file."""

    def encode(image: np.ndarray, file_format: str = "PNG", **options: object) -> bytes:
        content = io.BytesIO()
        pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        Image.fromarray(pixels).save(content, file_format, **options)
        return content.getvalue()

    return encode


def find_unpinned_modules() -> set[str]:
    """Return installed modules that do not belong to a Bento's requirements."""
    required = find_dependencies(REQUIREMENTS)
    distributions_by_module = importlib.metadata.packages_distributions()
    foreign = {
        module
        for module, owners in distributions_by_module.items()
        if not {canonicalize_name(owner) for owner in owners} & required
    }
    assert {"mlflow", "prefect", "sklearn", "torchvision"} <= foreign
    return (foreign | {"relearn.flows"}) - {"relearn"}


def find_dependencies(names: tuple[str, ...]) -> set[str]:
    """Return the distributions in `names` and everything that they require here."""
    dependencies: set[str] = set()
    pending = {canonicalize_name(name) for name in names}
    while pending:
        name = pending.pop()
        dependencies.add(name)
        try:
            required = [Requirement(line) for line in importlib.metadata.requires(name) or []]
        except importlib.metadata.PackageNotFoundError:
            continue
        pending |= {
            canonicalize_name(requirement.name)
            for requirement in required
            if not requirement.marker or requirement.marker.evaluate({"extra": ""})
        } - dependencies
    return dependencies
