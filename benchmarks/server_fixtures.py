"""The servers that are measured: ours as users run it, and those of others with the same network."""

import json
import os
import re
import socket
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

from benchmarks.subprocess_peers import REPOSITORY, THEIRS
from relearn.model.config import TrainConfig
from relearn.model.data.prepared import prepare_dataset
from relearn.model.home import Home
from relearn.model.inference.classifier import WEIGHTS_FILE, Classifier, ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.training.fit import fit
from relearn.serving.config import ServeConfig
from relearn.serving.deployment.packaging import build_bento
from relearn.serving.deployment.server import Server, start_server
from relearn.serving.releases.golden import Golden
from relearn.serving.releases.ledger import Release
from relearn.serving.releases.store import ReleaseStore

NAME, VERSION = "mnist", "1"
HOST = "127.0.0.1"
IMAGES = 32  # different ones that take turns
PATIENCE = 60.0  # seconds until a server answers
# Every server is asked for so long before it counts: ours settles two seconds after its start.
WARM_UP = 3.0


class ServerError(Exception):
    """A server could not be had; carries the last line that it wrote."""


@dataclass(frozen=True)
class Peer:
    """A server in `benchmarks/servers/`: the arguments of Python that start it, where it predicts, and the
    member of a JSON body that holds the images.
    """

    command: str
    path: str = "/predict"
    member: str = "images"
    raw: str = ""  # where it takes bytes


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
    "mlflow models serve": Peer("-m benchmarks.servers.mlflow {port}", path="/invocations", member="inputs"),
}


@dataclass(frozen=True)
class Question:
    """What a server is asked: `bodies` of one media type, each with `images` images, and their `labels`."""

    url: str
    media_type: str
    bodies: tuple[bytes, ...]
    images: int
    labels: tuple[str, ...]

    @classmethod
    def json(cls, url: str, member: str, released: "Released") -> "Question":
        """One image a request, as numbers."""
        bodies = [{member: [image.tolist()]} for image in released.images[:, 0]]
        encoded = tuple(json.dumps(body, separators=(",", ":")).encode() for body in bodies)
        return cls(url, "application/json", encoded, 1, released.labels)

    @classmethod
    def raw(cls, url: str, released: "Released", images: int = 1) -> "Question":
        """So many images a request, as the bytes that they are."""
        repeated = np.resize(released.images, (IMAGES, images, 28, 28))
        labels = tuple(np.resize(released.labels, IMAGES * images))
        return cls(url, "application/octet-stream", tuple(one.tobytes() for one in repeated), images, labels)

    def answers(self) -> bool:
        """Whether the first of it is answered."""
        try:
            headers = {"Content-Type": self.media_type}
            asked = httpx.post(self.url, content=self.bodies[0], headers=headers, trust_env=False, timeout=10)
        except httpx.HTTPError:
            return False
        return asked.is_success

    def check(self) -> None:
        """Raise `ServerError` where the labels of all answers are not those that ours gives offline."""
        with httpx.Client(headers={"Content-Type": self.media_type}, trust_env=False) as client:
            told = [client.post(self.url, content=body).text for body in self.bodies]
        got = tuple(re.findall(r'"label": *"(\d)"', "".join(told)))
        if got != self.labels:
            wrong = sum(one != other for one, other in zip(got, self.labels, strict=False))
            raise ServerError(f"{len(got)} answers instead of {len(self.labels)}, {wrong} of them others")


@dataclass(frozen=True)
class Released:
    """A home with an mlp that has learned from MNIST, released and packaged.

    `images` uint8 (32, 1, 28, 28) are some that it has not seen, `labels` what it says of them.
    """

    home: Home
    bento: str
    weights: Path
    classifier: Classifier
    images: np.ndarray
    labels: tuple[str, ...]


@contextmanager
def released() -> Iterator[Released]:
    """Train for an epoch, and let that be what is live, in a home that is gone afterwards."""
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
        _release(home, saved, bento)
        labels = tuple(classifier.to_labels(classifier.predict(images)))
        yield Released(home, bento, saved / WEIGHTS_FILE, classifier, images, labels)


def _release(home: Home, saved: Path, bento: str) -> None:
    releases = ReleaseStore(home.releases_dir(NAME))
    live = Release(
        version=VERSION,
        bento=bento,
        run_id="none",
        published_at=datetime.now(UTC),
        sha256=releases.add_version(VERSION, saved),
    )
    releases.append_decision(
        actor="benchmark",
        action="promote",
        candidate=VERSION,
        run_id="none",
        reasons=(),
        fingerprints={},
        before=None,
        live=live,
        previous=None,
    )


@contextmanager
def ours(released: Released, workers: int = 1) -> Iterator[Server]:
    """The server that `relearn serve` starts, with the settings that it has by default."""
    server = start_server(
        released.bento, ServeConfig(port=0, workers=workers), released.home, model_name=NAME
    )
    try:
        server.wait_until_ok("/readyz")
        yield server
    finally:
        server.stop()


def takes_raw(server: Server) -> bool:
    """Whether it says that it takes images as bytes."""
    told = httpx.get(f"{server.url}/openapi.json", trust_env=False).json()
    return "application/octet-stream" in told["paths"]["/predict"]["post"]["requestBody"]["content"]


@contextmanager
def theirs(peer: Peer, released: Released, workers: int = 1) -> Iterator[str]:
    """A server of `PEERS`, once it answers; gives its URL. Raises `ServerError` where it does not."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    url = f"http://{HOST}:{port}"
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                [str(THEIRS), *peer.command.format(port=port, workers=workers).split()],
                cwd=REPOSITORY,
                env=_environment(released, folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # as ours: Linux shares cores among sessions first
            )
        except OSError:
            raise ServerError(f"{THEIRS} is missing, make bench-serve makes it") from None
        try:
            question = Question.json(url + peer.path, peer.member, released)
            deadline = time.monotonic() + PATIENCE
            while not question.answers():
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise ServerError(_last_line(log.read()))
                time.sleep(0.1)
            yield url
        finally:
            _end(process)


def _environment(released: Released, folder: str) -> dict[str, str]:
    from benchmarks.servers.network import WEIGHTS as VARIABLE

    own = {name: value for name, value in os.environ.items() if name not in ("BENTOML_HOME", "PYTHONPATH")}
    return own | {
        VARIABLE: str(released.weights),
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "BENTOML_HOME": folder,
        "BENTOML_DO_NOT_TRACK": "True",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "PATH": f"{THEIRS.parent}{os.pathsep}{os.environ['PATH']}",
    }


def _last_line(log: bytes) -> str:
    lines = [line.strip() for line in log.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it wrote nothing"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and all that it has started."""
    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for one in family:
        one.kill() if one.is_running() else None
    process.wait()
