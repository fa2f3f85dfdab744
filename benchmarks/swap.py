"""Hot reload under load: the released version of a real server changes twelve times."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import torch

from benchmarks.load import Answer, load
from relearn.flows.releases.release_state import ReleaseState, record_decision
from relearn.flows.releases.rollback import roll_back
from relearn.model.config import TrainConfig
from relearn.model.home import Home
from relearn.model.images.decode import encode_png
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.networks.summary import count_parameters
from relearn.model.plots.style import BLACK, COLORS, create_figure, style_axes
from relearn.serving.config import ServeConfig
from relearn.serving.deployment.packaging import build_bento
from relearn.serving.deployment.server import Server, start_server
from relearn.serving.releases.golden import Golden
from relearn.serving.releases.ledger import Release
from relearn.serving.releases.store import ReleaseStore

FIGURE_FILE = Path(__file__).parents[1] / "docs" / "images" / "swap.png"
NAME, SHAPE = "digits", (1, 28, 28)
CONNECTIONS = 16
# Eleven versions: ten promotions after the first, and two steps back.
STEPS = ("2", "3", "4", "5", "back", "6", "7", "8", "9", "10", "back", "11")
PACE = 3.0  # seconds before each step, and after the last
NEAR = 1.0  # seconds before and after a change that count as during it


@dataclass(frozen=True)
class Watched:
    """Observations of one server under load.

    `answers` has a row a request: `at` and `seconds` (s), `connection`, `status`, and, of those that were
    answered, `version`, `worker`, and whether the answer is `right`, that of the version it names.
    `changes` are (time, version that is live from then on, whether it is a rollback), `took` the seconds
    until all workers served it.
    """

    answers: pd.DataFrame
    changes: tuple[tuple[float, str, bool], ...]
    took: tuple[float, ...]

    @property
    def failed(self) -> int:
        return int((self.answers["status"] != 200).sum())

    @property
    def wrong(self) -> int:
        """Answers that differ from those of the version that they name."""
        return int((~self.answers["right"]).sum()) - self.failed

    @property
    def went_back(self) -> int:
        """Answers from a version that the worker had replaced before it last answered on that connection."""
        order = ["1", *(version for _, version, _ in self.changes)]
        back = 0
        for _, told in self.answers[self.answers["status"] == 200].groupby(["connection", "worker"]):
            place = 0
            for version in told["version"]:
                later = [number for number in range(place, len(order)) if order[number] == version]
                back += not later
                place = later[0] if later else place
        return back

    def milliseconds(self, near: bool) -> np.ndarray:
        """Return request latencies during changes (`near`), or at other times."""
        times = np.array([time for time, *_ in self.changes])
        close = (np.abs(self.answers["at"].to_numpy()[:, None] - times) < NEAR).any(1)
        return 1000 * self.answers["seconds"].to_numpy()[close == near]


class Stage:
    """A home with classifiers that predict differently; version 1 is released and packaged."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root, root)
        self.releases = ReleaseStore(self.home.releases_dir(NAME))
        images = np.random.default_rng(0).integers(0, 256, (64, *SHAPE), dtype=np.uint8)
        self.folders: dict[str, Path] = {}
        self.expected: dict[str, np.ndarray] = {}
        for number in range(1, 12):
            classifier, folder = _classifier(number), root / "saved" / f"{number}"
            classifier.save(folder, np.empty(0, np.uint64))
            golden = Golden.from_classifier(classifier, images)
            golden.save(folder)
            self.images = golden.images
            self.folders[f"{number}"], self.expected[f"{number}"] = folder, golden.probabilities
        self.promote("1")
        self.bento = build_bento(self.folders["1"], NAME, "1", self.home)

    def promote(self, version: str, digests: dict[str, str] | None = None) -> None:
        """Release a version as after a promotion; with `digests` its files are stored already."""
        now = ReleaseState.from_store(self.releases)
        live = Release(
            version=version,
            bento=f"{NAME}:{version}",
            run_id=version,
            published_at=datetime.now(UTC),
            sha256=digests or self.releases.add_version(version, self.folders[version]),
        )
        previous = now.live.version if now.live else None
        decision: dict[str, Any] = {"action": "promote", "candidate": version, "run_id": version}
        record_decision(
            self.home, NAME, now, **decision, reasons=(), fingerprints={}, live=live, previous=previous
        )

    def step(self, step: str) -> str:
        """Promote or roll back, and return the live version."""
        if step == "back":
            roll_back(self.home, NAME, None, "a step back")
        else:
            self.promote(step)
        live = self.releases.read_current()
        assert live is not None
        return live.version


def _classifier(seed: int) -> Classifier:
    """Build an untrained classifier with confident predictions, different for each seed."""
    torch.manual_seed(seed)
    config = TrainConfig(hidden_sizes=(512,), seed=seed)
    network = build_network(config, SHAPE, 10)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(4)
    card = ModelCard(
        config=config,
        dataset=NAME,
        classes=tuple("0123456789"),
        shape=SHAPE,
        style="mnist",
        fingerprint="0" * 64,
        parameters=count_parameters(network),
    )
    return Classifier(network, card)


def watch(stage: Stage, workers: int, steps: Sequence[str] = STEPS, pace: float = PACE) -> Watched:
    """Put a real server under load, and change the released version every `pace` seconds."""
    changes, took = [], []
    requests = [as_png(image) if number % 2 else as_json(image) for number, image in enumerate(stage.images)]
    with served(stage, workers) as server, load(server.address, requests, CONNECTIONS) as answers:
        for step in steps:
            time.sleep(pace)
            began = time.time()
            version = stage.step(step)
            changes.append((began, version, step == "back"))
            _until(all_serve, server, version)
            took.append(time.time() - began)
        time.sleep(pace)
    return Watched(pd.DataFrame(_read(answer, stage) for answer in answers), tuple(changes), tuple(took))


@contextmanager
def served(stage: Stage, workers: int) -> Iterator[Server]:
    server = start_server(stage.bento, ServeConfig(port=0, workers=workers), stage.home, model_name=NAME)
    try:
        server.wait_until_ok("/readyz")
        _until(lambda: len(worker_versions(server)) == workers)
        yield server
    finally:
        server.stop()


def all_serve(server: Server, version: str) -> bool:
    return set(worker_versions(server).values()) == {version}


def worker_versions(server: Server) -> dict[int, str]:
    """Return the version that each worker serves, from `/info`."""
    told = httpx.get(f"{server.url}/info", timeout=5, trust_env=False).json()
    return {one["worker"]: one["version"] for one in told["workers"]}


def as_png(image: np.ndarray) -> bytes:
    """Make a PNG request, which is decoded and predicted in a thread."""
    return _post("image/png", encode_png(image))


def as_json(image: np.ndarray) -> bytes:
    """Make a JSON request, which is predicted in the event loop."""
    return _post("application/json", json.dumps({"images": image.tolist()}).encode())


def _post(media_type: str, body: bytes) -> bytes:
    head = f"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: {media_type}\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def _read(answer: Answer, stage: Stage) -> dict[str, Any]:
    """Convert an answer to a row of `answers`."""
    seconds = answer.received - answer.sent
    row = {"at": answer.received, "seconds": seconds, "connection": answer.connection, "right": False}
    if answer.status != 200:
        return row | {"status": answer.status, "version": "", "worker": 0}
    said = json.loads(answer.body)
    probabilities = list(said["predictions"][0]["probabilities"].values())
    expected = stage.expected[said["version"]][answer.asked]
    right = bool(np.allclose(probabilities, expected, rtol=0, atol=1e-5))
    return row | {"status": 200, "version": said["version"], "worker": said["worker"], "right": right}


def _until(condition: Callable[..., object], *arguments: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition(*arguments):
        if time.monotonic() > deadline:
            raise TimeoutError("the condition was not met within 60 s")
        time.sleep(0.02)


def measure() -> tuple[str, str, pd.DataFrame]:
    """Measure with one worker and with two."""
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
    figure(watched).savefig(FIGURE_FILE)
    note = (
        f"{CONNECTIONS} connections that stay open, each asking again as soon as it is answered, PNG and "
        "JSON in turn; ten promotions and two rollbacks, each through the ledger. Every answer is compared "
        "with what the version that it names answers offline (within 1e-5). An answer counts as from a "
        "version that was replaced where its worker had already answered the same connection from a later "
        "one. Clients and server share the cores."
    )
    return "Hot reload under load", note, pd.DataFrame(rows)


def figure(watched: Watched) -> Any:
    """Plot requests over time, colored by the answering version."""
    answers = watched.answers
    begin = answers["at"].min()
    edges = np.linspace(0, answers["at"].max() - begin, 121)
    versions = sorted({"1", *(version for _, version, _ in watched.changes)}, key=int)
    counts = [
        np.histogram(answers["at"][answers["version"] == version] - begin, edges)[0] / np.diff(edges)
        for version in versions
    ]
    drawn = create_figure(
        3.8,
        f"{len(answers):,} requests, {watched.failed} failed, {watched.wrong} answered wrongly, "
        f"{len(watched.changes)} changes",
    )
    axes = drawn.subplots()
    color_list = [COLORS[int(version) % len(COLORS)] for version in versions]
    axes.stackplot(edges[:-1], counts, step="post", colors=color_list, linewidth=0)
    top = axes.get_ylim()[1]
    for at, version, back in watched.changes:
        axes.axvline(at - begin, color=BLACK, linestyle=":" if back else "-", linewidth=0.8)
        axes.text(at - begin, top, f" {'back to ' if back else ''}{version}", va="top", fontsize=8)
    axes.set_xlabel("seconds")
    axes.set_ylabel("requests/s, colored by version")
    axes.margins(x=0)
    style_axes(axes)
    return drawn
