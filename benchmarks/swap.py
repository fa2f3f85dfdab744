"""A swap nobody notices: a real server under load, while what is live changes twelve times."""

import http.client
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from flows.rollback import rollback
from flows.truth import Truth, decide
from model.canvas import BLACK, COLOURS, blank, tidy
from model.classifier import Card, Classifier
from model.config import TrainConfig
from model.home import Home
from model.images import png
from model.networks import build, count
from serving.golden import Golden
from serving.ledger import Release
from serving.packaging import package
from serving.releases import Releases
from serving.server import Server, start
from serving.settings import ServeConfig

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "swap.png"
NAME, SHAPE = "digits", (1, 28, 28)
CONNECTIONS, REQUESTS = 16, 20_000
# Eleven versions: ten promotions after the first, and two steps back.
STEPS = ("2", "3", "4", "5", "back", "6", "7", "8", "9", "10", "back", "11")
NEAR = 1.0  # seconds before and after a change that count as during it


@dataclass(frozen=True)
class Answer:
    """One request: when it was answered (s), how long it took (s), by whom, and whether it was right."""

    at: float
    seconds: float
    connection: int
    status: int
    version: str = ""
    worker: int = 0
    right: bool = False


@dataclass
class Watched:
    """All answers, and the changes: (time, version that is live from then on, whether it is a rollback)."""

    answers: list[Answer] = field(default_factory=list)
    changes: list[tuple[float, str, bool]] = field(default_factory=list)
    took: list[float] = field(default_factory=list)

    def has(self, requests: float) -> bool:
        return len(self.answers) >= requests

    @property
    def failed(self) -> int:
        return sum(answer.status != 200 for answer in self.answers)

    @property
    def wrong(self) -> int:
        """Answers that are not those of the version that they name."""
        return sum(answer.status == 200 and not answer.right for answer in self.answers)

    @property
    def went_back(self) -> int:
        """Answers of a worker from a version that was replaced before its last answer on that connection."""
        order = ["1", *(version for _, version, _ in self.changes)]
        place: dict[tuple[int, int], int] = {}
        back = 0
        for answer in self.answers:
            key = answer.connection, answer.worker
            later = [
                number for number in range(place.get(key, 0), len(order)) if order[number] == answer.version
            ]
            back += not later
            place[key] = later[0] if later else place.get(key, 0)
        return back

    def milliseconds(self, near: bool) -> np.ndarray:
        """The times of requests during changes, or away from them."""
        times = np.array([time for time, *_ in self.changes])
        close = [bool((np.abs(times - answer.at) < NEAR).any()) for answer in self.answers]
        return np.array(
            [1000 * one.seconds for one, is_near in zip(self.answers, close, strict=True) if is_near == near]
        )


class Stage:
    """A home with classifiers of other answers each, version 1 live and packaged."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root, root)
        self.releases = Releases(self.home.releases(NAME))
        images = np.random.default_rng(0).integers(0, 256, (64, *SHAPE), dtype=np.uint8)
        self.folders: dict[str, Path] = {}
        self.expected: dict[str, np.ndarray] = {}
        for number in range(1, 12):
            classifier, folder = _classifier(number), root / "saved" / f"{number}"
            classifier.save(folder, np.empty(0, np.uint64))
            golden = Golden.of(classifier, images)
            golden.save(folder)
            self.images = golden.images
            self.folders[f"{number}"], self.expected[f"{number}"] = folder, golden.probabilities
        self.promote("1")
        self.bento = package(self.folders["1"], NAME, "1", self.home)

    def promote(self, version: str) -> None:
        """Let it be live, as a release does once it has been judged."""
        now = Truth.read(self.releases)
        live = Release(
            version=version,
            bento=f"{NAME}:{version}",
            run_id=version,
            published_at=datetime.now(UTC),
            digests=self.releases.keep(version, self.folders[version]),
        )
        previous = now.live.version if now.live else None
        decision: dict[str, Any] = {"action": "promote", "candidate": version, "run_id": version}
        decide(self.home, NAME, now, **decision, reasons=(), fingerprints={}, live=live, previous=previous)

    def step(self, step: str) -> str:
        """A promotion, or a rollback; returns what is live then."""
        if step == "back":
            rollback(self.home, NAME, None, "a step back")
        else:
            self.promote(step)
        live = self.releases.live()
        assert live is not None
        return live.version


def _classifier(seed: int) -> Classifier:
    """Untrained, and sharp enough that no two of them answer alike."""
    torch.manual_seed(seed)
    config = TrainConfig(hidden=(512,), seed=seed)
    network = build(config, SHAPE, 10)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(4)
    card = Card(
        config=config,
        dataset=NAME,
        classes=tuple("0123456789"),
        shape=SHAPE,
        style="strokes",
        fingerprint="0" * 64,
        parameters=count(network),
    )
    return Classifier(network, card)


def watch(stage: Stage, workers: int, requests: int = REQUESTS, steps: tuple[str, ...] = STEPS) -> Watched:
    """Put a real server under load, and change what is live at every `len(steps) + 1`th part of it."""
    watched = Watched()
    with served(stage, workers) as server:
        done = threading.Event()
        clients = [
            threading.Thread(target=_ask, args=(server, stage, number, watched.answers, done))
            for number in range(CONNECTIONS)
        ]
        for client in clients:
            client.start()
        for number, step in enumerate(steps, 1):
            _until(watched.has, number * requests / (len(steps) + 1))
            began = time.perf_counter()
            version = stage.step(step)
            watched.changes.append((began, version, step == "back"))
            _until(all_serve, server, version)
            watched.took.append(time.perf_counter() - began)
        _until(watched.has, requests)
        done.set()
        for client in clients:
            client.join()
    return watched


@contextmanager
def served(stage: Stage, workers: int) -> Iterator[Server]:
    server = start(stage.bento, ServeConfig(port=0, workers=workers), stage.home, follow=NAME)
    try:
        server.wait_for("/readyz")
        _until(lambda: len(known(server)) == workers)
        yield server
    finally:
        server.stop()


def all_serve(server: Server, version: str) -> bool:
    return set(known(server).values()) == {version}


def known(server: Server) -> dict[int, str]:
    """What each worker serves, as the server says."""
    connection = http.client.HTTPConnection(*server.address, timeout=5)
    connection.request("GET", "/info")
    told = json.loads(connection.getresponse().read())
    connection.close()
    return {one["worker"]: one["version"] for one in told["workers"]}


def _ask(server: Server, stage: Stage, number: int, answers: list[Answer], done: threading.Event) -> None:
    """One client on one connection: image after image, each answer compared with the version it names."""
    connection = http.client.HTTPConnection(*server.address, timeout=30)
    bodies = [png(image) for image in stage.images]
    turn = number
    while not done.is_set():
        turn += 1
        image = turn % len(bodies)
        began = time.perf_counter()
        try:
            connection.request("POST", "/predict", bodies[image], {"Content-Type": "image/png"})
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            answers.append(Answer(time.perf_counter(), time.perf_counter() - began, number, 0))
            connection.close()
            continue
        at = time.perf_counter()
        if answer.status != 200:
            answers.append(Answer(at, at - began, number, answer.status))
            continue
        said = json.loads(content)
        probabilities = list(said["predictions"][0]["probabilities"].values())
        right = np.allclose(probabilities, stage.expected[said["version"]][image], rtol=0, atol=1e-5)
        answers.append(Answer(at, at - began, number, 200, said["version"], said["worker"], bool(right)))


def _until(condition: Callable[..., object], *arguments: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition(*arguments):
        if time.monotonic() > deadline:
            raise TimeoutError("what was waited for did not come within a minute")
        time.sleep(0.02)


def measure() -> tuple[str, str, pd.DataFrame]:
    """With one worker and with two."""
    rows = []
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            watched = watch(Stage(Path(folder)), workers)
        near, far = watched.milliseconds(near=True), watched.milliseconds(near=False)
        rows.append(
            {
                "workers": workers,
                "requests": f"{len(watched.answers):,}",
                "failed": watched.failed,
                "other than the named version's": watched.wrong,
                "from a version that was replaced": watched.went_back,
                "seconds until all workers swapped, median": f"{np.median(watched.took):.2f}",
                "at most": f"{max(watched.took):.2f}",
                "ms a request, 50 % and 99 %": "{:.1f}, {:.1f}".format(*np.percentile(far, (50, 99))),
                "within a second of a swap": "{:.1f}, {:.1f}".format(*np.percentile(near, (50, 99))),
            }
        )
    figure(watched).savefig(PICTURE)
    note = (
        f"{CONNECTIONS} connections that stay open, each asking again as soon as it is answered; ten "
        "promotions and two rollbacks, each through the ledger. Every answer is compared with what the "
        "version that it names answers offline (within 1e-5). An answer counts as from a version that was "
        "replaced where its worker had already answered the same connection from a later one. Clients and "
        "server share the cores."
    )
    return "A swap nobody notices", note, pd.DataFrame(rows)


def figure(watched: Watched) -> Any:
    """Requests over time, coloured by the version that answered."""
    begin, end = watched.answers[0].at, watched.answers[-1].at
    edges = np.linspace(0, end - begin, 121)
    order = ["1", *(version for _, version, _ in watched.changes)]
    versions = sorted(set(order), key=int)
    counts = [
        np.histogram([one.at - begin for one in watched.answers if one.version == version], edges)[0]
        / np.diff(edges)
        for version in versions
    ]
    total = len(watched.answers)
    drawn = blank(
        3.8, f"{total:,} requests, {watched.failed} failed, {watched.wrong} answered wrongly, 12 changes"
    )
    axes = drawn.subplots()
    colours = [COLOURS[int(version) % len(COLOURS)] for version in versions]
    axes.stackplot(edges[:-1], counts, step="post", colors=colours, linewidth=0)
    top = axes.get_ylim()[1]
    for at, version, back in watched.changes:
        axes.axvline(at - begin, color=BLACK, linestyle=":" if back else "-", linewidth=0.8)
        axes.text(at - begin, top, f" {'back to ' if back else ''}{version}", va="top", fontsize=8)
    axes.set_xlabel("seconds")
    axes.set_ylabel("requests/s, coloured by version")
    axes.margins(x=0)
    tidy(axes)
    return drawn
