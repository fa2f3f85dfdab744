"""Servers under test: `relearn serve` with a released model, and peers with the same network."""

import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import psutil

from benchmarks.subprocess_peers import PEER_PYTHON, REPOSITORY
from relearn.model.config import TrainConfig
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import WEIGHTS_FILE, ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.ports import find_free_port
from relearn.model.preparation.prepared import prepare_dataset
from relearn.model.training.fit import fit
from relearn.serving.config import ServeConfig
from relearn.serving.deployment.build_bento import build_bento
from relearn.serving.deployment.server import Server, start_server
from relearn.serving.releases.golden import Golden
from relearn.serving.releases.ledger import Release
from relearn.serving.releases.store import ReleaseStore

NAME, VERSION = "mnist", "1"
HOST = "127.0.0.1"
IMAGES = 32  # distinct images, sent in turn
START_TIMEOUT_SECONDS = 60.0  # seconds until a server answers
# Seconds of load before the measurement: ours runs background work for two seconds after its start.
WARM_UP = 3.0


class ServerError(Exception):
    """Server is unavailable; carries the last line of its log."""


@dataclass(frozen=True)
class Peer:
    """Server in `benchmarks/servers/`: Python arguments, path of predictions, JSON key of the images."""

    command: str
    path: str = "/predict"
    images_key: str = "images"
    raw: str = ""  # path for raw bytes


UVICORN = (
    f"-m uvicorn --host {HOST} --port {{port}} --workers {{workers}} --loop uvloop --http httptools "
    "--no-access-log --log-level warning"
)
BENTOML = f"-m bentoml serve --host {HOST} --port {{port}}"
STARLETTE, FASTAPI, BENTOML_SYNC = "Starlette + msgspec", "FastAPI, async", "BentoML's methods, sync"
PEERS: dict[str, Peer] = {
    STARLETTE: Peer(f"{UVICORN} benchmarks.servers.starlette:app", raw="/raw"),
    FASTAPI: Peer(f"{UVICORN} benchmarks.servers.fastapi:app"),
    "FastAPI, sync": Peer(f"{UVICORN} benchmarks.servers.fastapi:app", path="/sync"),
    "LitServe": Peer("-m benchmarks.servers.litserve {port}"),
    BENTOML_SYNC: Peer(f"{BENTOML} benchmarks.servers.bentoml:Sync"),
    "BentoML's methods, async": Peer(f"{BENTOML} benchmarks.servers.bentoml:Async"),
    "mlflow models serve": Peer(
        "-m benchmarks.servers.mlflow {port}", path="/invocations", images_key="inputs"
    ),
}


@dataclass(frozen=True)
class Workload:
    """Request bodies of one media type, each with `images` images, and the expected labels."""

    url: str
    media_type: str
    bodies: tuple[bytes, ...]
    images: int
    labels: tuple[str, ...]

    @classmethod
    def json(cls, url: str, images_key: str, released: "ReleasedModel") -> "Workload":
        """Make requests of one image as JSON."""
        bodies = [{images_key: [image.tolist()]} for image in released.images[:, 0]]
        encoded = tuple(json.dumps(body, separators=(",", ":")).encode() for body in bodies)
        return cls(url, "application/json", encoded, 1, released.labels)

    @classmethod
    def raw(cls, url: str, released: "ReleasedModel", images: int = 1) -> "Workload":
        """Make requests of `images` images as raw bytes."""
        repeated = np.resize(released.images, (IMAGES, images, 28, 28))
        labels = tuple(np.resize(released.labels, IMAGES * images))
        return cls(
            url, "application/octet-stream", tuple(batch.tobytes() for batch in repeated), images, labels
        )

    def is_answered(self) -> bool:
        """Return whether the first request is answered."""
        try:
            headers = {"Content-Type": self.media_type}
            response = httpx.post(
                self.url, content=self.bodies[0], headers=headers, trust_env=False, timeout=10
            )
        except httpx.HTTPError:
            return False
        return response.is_success

    def check(self) -> None:
        """Raise `ServerError` if the predicted labels differ from the offline predictions."""
        with httpx.Client(headers={"Content-Type": self.media_type}, trust_env=False) as client:
            responses = [client.post(self.url, content=body).text for body in self.bodies]
        labels = tuple(re.findall(r'"label": *"(\d)"', "".join(responses)))
        if labels != self.labels:
            wrong = sum(label != expected for label, expected in zip(labels, self.labels, strict=False))
            raise ServerError(f"{len(labels)} labels instead of {len(self.labels)}, {wrong} of them wrong")


@dataclass(frozen=True)
class ReleasedModel:
    """A home with an mlp trained on MNIST, released and packaged.

    `images` uint8 (32, 1, 28, 28) are test images, `labels` their predicted labels.
    """

    home: Home
    bento: str
    weights: Path
    classifier: Classifier
    images: np.ndarray
    labels: tuple[str, ...]


@contextmanager
def release_model() -> Iterator[ReleasedModel]:
    """Train for one epoch, and release the classifier in a temporary home."""
    config = TrainConfig(dataset=NAME, hidden_sizes=(512,), epochs=1)
    prepared = prepare_dataset(config, Home.from_environment())
    network = build_network(config, (1, 28, 28), classes=10)
    fit(config, network, prepared.splits, classes=10)
    classifier = Classifier(network, ModelCard.from_network(config, prepared, network))
    images = prepared.splits.test.images[:IMAGES]
    with tempfile.TemporaryDirectory(prefix="relearn-benchmark-") as folder:
        home, saved = Home(Path(folder), Path(folder)), Path(folder) / "saved"
        classifier.save(saved)
        Golden.from_classifier(classifier, images).save(saved)
        bento = build_bento(saved, NAME, VERSION, home)
        publish(home, saved, bento)
        labels = tuple(classifier.to_labels(classifier.predict(images)))
        yield ReleasedModel(home, bento, saved / WEIGHTS_FILE, classifier, images, labels)


def publish(home: Home, saved: Path, bento: str) -> None:
    """Make the saved classifier version `VERSION` of `NAME`, and release it."""
    releases = ReleaseStore(home.releases_dir(NAME))
    live = Release(
        version=VERSION,
        bento=bento,
        run_id="none",
        published_at=datetime.now(UTC),
        sha256=releases.add_version(VERSION, saved),
    )
    releases.ledger.append(
        releases.ledger.read_last(),
        actor="benchmark",
        action="promote",
        subject=VERSION,
        run_id="none",
        reasons=(),
        fingerprints={},
        previous_live=None,
        live=live,
        rollback_target=None,
    )


@contextmanager
def start_relearn(released: ReleasedModel, workers: int = 1) -> Iterator[Server]:
    """Start the server of `relearn serve` with default settings."""
    server = start_server(
        released.bento, ServeConfig(port=0, workers=workers), released.home, model_name=NAME
    )
    try:
        server.wait_until_ok("/readyz")
        yield server
    finally:
        server.stop()


def accepts_raw(server: Server) -> bool:
    """Return whether the OpenAPI document lists raw bytes."""
    document = httpx.get(f"{server.url}/openapi.json", trust_env=False).json()
    return "application/octet-stream" in document["paths"]["/predict"]["post"]["requestBody"]["content"]


@contextmanager
def start_peer(peer: Peer, released: ReleasedModel, workers: int = 1) -> Iterator[str]:
    """Start a server of `PEERS`, and yield its URL once it answers. Raises `ServerError` otherwise."""
    port = find_free_port()
    url = f"http://{HOST}:{port}"
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                [str(PEER_PYTHON), *peer.command.format(port=port, workers=workers).split()],
                cwd=REPOSITORY,
                env=_environment(released, folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # as ours: Linux divides the cores among sessions first
            )
        except OSError:
            raise ServerError(f"{PEER_PYTHON} is missing; run make bench-serve") from None
        try:
            workload = Workload.json(url + peer.path, peer.images_key, released)
            deadline = time.monotonic() + START_TIMEOUT_SECONDS
            while not workload.is_answered():
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise ServerError(_last_line(log.read()))
                time.sleep(0.1)
            yield url
        finally:
            _kill_tree(process)


def _environment(released: ReleasedModel, folder: str) -> dict[str, str]:
    from benchmarks.servers.network import WEIGHTS_VARIABLE

    environment = {
        name: value for name, value in os.environ.items() if name not in ("BENTOML_HOME", "PYTHONPATH")
    }
    return environment | {
        WEIGHTS_VARIABLE: str(released.weights),
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "BENTOML_HOME": folder,
        "BENTOML_DO_NOT_TRACK": "True",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "PATH": f"{PEER_PYTHON.parent}{os.pathsep}{os.environ['PATH']}",
    }


def _last_line(log: bytes) -> str:
    lines = [line.strip() for line in log.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "its log is empty"


def _kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and all its descendants."""
    try:
        processes = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        processes = []
    for member in processes:
        if member.is_running():
            member.kill()
    process.wait()
