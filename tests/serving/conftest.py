"""One real server for all tests of the API: a real Bento, BentoML's own process, HTTP over a socket."""

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
from relearn.serving.deployment.packaging import build_bento
from relearn.serving.deployment.requirements import REQUIREMENTS
from relearn.serving.deployment.server import Server, start_server
from relearn.serving.releases.golden import Golden
from relearn.serving.releases.ledger import Release
from relearn.serving.releases.store import ReleaseStore

SHAPE = (1, 28, 28)

# Put on the server's path, this lets no import through that a Bento's requirements do not bring.
ONLY_PINNED = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused}:
            raise ModuleNotFoundError(f"no module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
"""

BY_BENTOML = """
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
def _own_bentoml(monkeypatch: pytest.MonkeyPatch) -> None:
    """BentoML's stores lie in the home of the test."""
    monkeypatch.delenv("BENTOML_HOME", raising=False)


@pytest.fixture(scope="session")
def make_classifier() -> Callable[..., Classifier]:
    """A maker of untrained networks whose answers are sharp enough to tell images apart."""
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
    """A server on a free port, with limits that are quickly reached."""
    return ServeConfig(port=0, max_images=64, max_body_bytes=300_000, graceful_timeout_seconds=2)


@pytest.fixture(scope="session")
def classifier() -> Classifier:
    return _make_classifier(seed=0)


@pytest.fixture(scope="session")
def saved(
    classifier: Classifier, save: Callable[[Classifier, Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of the saved classifier, golden answers included."""
    return save(classifier, tmp_path_factory.mktemp("saved") / "classifier")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    root = tmp_path_factory.mktemp("serving")
    return Home(root, root / "data")


@pytest.fixture(scope="session")
def publish() -> Callable[..., Release]:
    """Lets a saved classifier be what is live under a name, as a flow does."""

    def done(releases: ReleaseStore, version: str, folder: Path, run_id: str = "run-1") -> Release:
        before = releases.read_current()
        live = Release(
            version=version,
            bento=f"{releases.root.name}:{version}",
            run_id=run_id,
            published_at=datetime.now(UTC),
            sha256=releases.add_version(version, folder),
        )
        releases.append_decision(
            actor="test",
            action="promote",
            subject=version,
            run_id=run_id,
            reasons=("a test",),
            fingerprints={},
            previous_live=before.version if before else None,
            live=live,
            rollback_target=before.version if before else None,
        )
        return live

    return done


@pytest.fixture(scope="session")
def save(images: np.ndarray) -> Callable[[Classifier, Path], Path]:
    """Saves a classifier with its golden answers."""

    def done(classifier: Classifier, folder: Path) -> Path:
        classifier.save(folder)
        Golden.from_classifier(classifier, images).save(folder)
        return folder

    return done


@pytest.fixture(scope="session")
def bento(saved: Path, home: Home) -> str:
    """A Bento of the classifier, version 3."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BENTOML_HOME", raising=False)
        return build_bento(saved, "digits", "3", home)


@pytest.fixture(scope="session")
def server(
    bento: str, config: ServeConfig, home: Home, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The real server, in processes that can import what the Bento requires and nothing else."""
    without = tmp_path_factory.mktemp("without")
    (without / "sitecustomize.py").write_text(ONLY_PINNED.format(refused=not_pinned()))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BENTOML_HOME", raising=False)
        patch.setenv("PYTHONPATH", str(without))
        started = start_server(bento, config, home)
    try:
        started.wait_until_ok("/readyz")
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client:
        yield client


KEYS = ("first-key-0123456789", "second-key-0123456789")


@pytest.fixture(scope="session")
def keys() -> tuple[str, str]:
    """Two keys: the guarded server has the first from the environment, the second from a file."""
    return KEYS


@pytest.fixture(scope="session")
def guarded(bento: str, home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A second server: wants a key, has two requests in hand at most, gives them up after 2 seconds."""
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"# for rotation\n{KEYS[1]}\n")
    config = ServeConfig(
        port=0, max_concurrency=2, timeout_seconds=2, graceful_timeout_seconds=4, api_keys_file=file
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BENTOML_HOME", raising=False)
        started = start_server(bento, config, home, api_keys=KEYS[0])
    try:
        started.wait_until_ok("/readyz")
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="session")
def insider(guarded: Server) -> Iterator[httpx.Client]:
    """A client of the guarded server that has a key."""
    headers = {"authorization": f"Bearer {KEYS[0]}"}
    with httpx.Client(base_url=guarded.url, trust_env=False, timeout=30, headers=headers) as client:
        yield client


@pytest.fixture(scope="session")
def ask_by_bentoml(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Any]]:
    """Send arrays with BentoML's own client, in a process of its own; its answers, or its error as text."""

    def ask(url: str, *batches: np.ndarray, key: str = "") -> list[Any]:
        file = tmp_path_factory.mktemp("batches") / "batches.npz"
        np.savez(file, *batches)
        command = [sys.executable, "-W", "ignore", "-c", BY_BENTOML, url, key, str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    return ask


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """64 random images, uint8 (64, 1, 28, 28)."""
    return np.random.default_rng(0).integers(0, 256, (64, *SHAPE), dtype=np.uint8)


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    """uint8 (channels, height, width) → the bytes of a picture file."""

    def encode(image: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
        content = io.BytesIO()
        pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        Image.fromarray(pixels).save(content, kind, **options)
        return content.getvalue()

    return encode


def not_pinned() -> set[str]:
    """The modules installed here that would not be there where only a Bento's requirements are."""
    brought = closure(REQUIREMENTS)
    homes = importlib.metadata.packages_distributions()
    foreign = {
        module
        for module, owners in homes.items()
        if not {canonicalize_name(owner) for owner in owners} & brought
    }
    assert {"mlflow", "prefect", "sklearn", "torchvision"} <= foreign
    return (foreign | {"relearn.flows"}) - {"relearn"}


def closure(names: tuple[str, ...]) -> set[str]:
    """The distributions in `names`, and all that they require here."""
    found: set[str] = set()
    to_do = {canonicalize_name(name) for name in names}
    while to_do:
        name = to_do.pop()
        found.add(name)
        try:
            required = [Requirement(line) for line in importlib.metadata.requires(name) or []]
        except importlib.metadata.PackageNotFoundError:
            continue
        to_do |= {
            canonicalize_name(one.name)
            for one in required
            if not one.marker or one.marker.evaluate({"extra": ""})
        } - found
    return found
