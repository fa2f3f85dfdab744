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

from benchmarks.load import Response, generate_load
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
from relearn.serving.deployment.build_bento import build_bento
from relearn.serving.deployment.server import Server, start_server
from relearn.serving.releases.golden import Golden
from relearn.serving.releases.ledger import Release
from relearn.serving.releases.store import ReleaseStore

FIGURE_FILE = Path(__file__).parents[1] / "docs" / "images" / "swap.png"
NAME, SHAPE = "digits", (1, 28, 28)
CONNECTIONS = 16
# Eleven versions: ten promotions after the first, and two steps back.
STEPS = ("2", "3", "4", "5", "back", "6", "7", "8", "9", "10", "back", "11")
STEP_INTERVAL_SECONDS = 3.0  # seconds before each step, and after the last
CHANGE_WINDOW_SECONDS = 1.0  # seconds before and after a change that count as during it


@dataclass(frozen=True)
class LoadTest:
    """Observations of one server under load.

    `responses` has a row per request: `received_at` and `seconds` (s), `connection`, `status`; for status 200
    also `version`, `worker`, and `is_correct`: whether the named version predicts this offline.
    `changes` are (time, new live version, whether it is a rollback); `reload_seconds` is the time of each
    change until all workers served the version.
    """

    responses: pd.DataFrame
    changes: tuple[tuple[float, str, bool], ...]
    reload_seconds: tuple[float, ...]

    @property
    def failed_count(self) -> int:
        return int((self.responses["status"] != 200).sum())

    @property
    def wrong_count(self) -> int:
        """Number of responses that differ from the offline predictions of the version that they name."""
        return int((~self.responses["is_correct"]).sum()) - self.failed_count

    @property
    def stale_count(self) -> int:
        """Number of responses from a version that the worker had replaced before an earlier response."""
        order = ["1", *(version for _, version, _ in self.changes)]
        stale_count = 0
        for _, served in self.responses[self.responses["status"] == 200].groupby(["connection", "worker"]):
            position = 0
            for version in served["version"]:
                later_positions = [
                    number for number in range(position, len(order)) if order[number] == version
                ]
                stale_count += not later_positions
                position = later_positions[0] if later_positions else position
        return stale_count

    def latencies_ms(self, during_change: bool) -> np.ndarray:
        """Return the latencies of requests during changes, or of all others."""
        times = np.array([time for time, *_ in self.changes])
        is_during_change = (
            np.abs(self.responses["received_at"].to_numpy()[:, None] - times) < CHANGE_WINDOW_SECONDS
        ).any(1)
        return 1000 * self.responses["seconds"].to_numpy()[is_during_change == during_change]


class ReleaseFixture:
    """A home with classifiers that predict differently; version 1 is released and packaged."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root, root)
        self.releases = ReleaseStore(self.home.releases_dir(NAME))
        images = np.random.default_rng(0).integers(0, 256, (64, *SHAPE), dtype=np.uint8)
        self.folders: dict[str, Path] = {}
        self.expected: dict[str, np.ndarray] = {}
        for number in range(1, 12):
            classifier, folder = build_classifier(number), root / "saved" / f"{number}"
            classifier.save(folder, np.empty(0, np.uint64))
            golden = Golden.from_classifier(classifier, images)
            golden.save(folder)
            self.images = golden.images
            self.folders[f"{number}"], self.expected[f"{number}"] = folder, golden.probabilities
        self.promote("1")
        self.bento = build_bento(self.folders["1"], NAME, "1", self.home)

    def promote(self, version: str, digests: dict[str, str] | None = None) -> None:
        """Release a version as after a promotion; with `digests` its files are stored already."""
        state = ReleaseState.from_store(self.releases)
        live = Release(
            version=version,
            bento=f"{NAME}:{version}",
            run_id=version,
            published_at=datetime.now(UTC),
            sha256=digests or self.releases.add_version(version, self.folders[version]),
        )
        previous = state.live.version if state.live else None
        decision: dict[str, Any] = {"action": "promote", "subject": version, "run_id": version}
        record_decision(
            self.home,
            NAME,
            state,
            **decision,
            reasons=(),
            fingerprints={},
            live=live,
            rollback_target=previous,
        )

    def step(self, step: str) -> str:
        """Promote or roll back, and return the live version."""
        if step == "back":
            roll_back(self.home, NAME, None, "a step back")
        else:
            self.promote(step)
        live = self.releases.read_live()
        assert live is not None
        return live.version


def build_classifier(seed: int) -> Classifier:
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
        style="photo",
        fingerprint="0" * 64,
        parameters=count_parameters(network),
    )
    return Classifier(network, card)


def run_load_test(
    fixture: ReleaseFixture,
    workers: int,
    steps: Sequence[str] = STEPS,
    interval_seconds: float = STEP_INTERVAL_SECONDS,
) -> LoadTest:
    """Put a real server under load, and change the released version every `interval_seconds`."""
    changes, reload_seconds = [], []
    requests = [
        build_png_request(image) if number % 2 else build_json_request(image)
        for number, image in enumerate(fixture.images)
    ]
    with (
        run_server(fixture, workers) as server,
        generate_load(server.address, requests, CONNECTIONS) as responses,
    ):
        for step in steps:
            time.sleep(interval_seconds)
            start_time = time.time()
            version = fixture.step(step)
            changes.append((start_time, version, step == "back"))
            wait_until(all_serve, server, version)
            reload_seconds.append(time.time() - start_time)
        time.sleep(interval_seconds)
    return LoadTest(
        pd.DataFrame(_to_row(answer, fixture) for answer in responses), tuple(changes), tuple(reload_seconds)
    )


@contextmanager
def run_server(fixture: ReleaseFixture, workers: int) -> Iterator[Server]:
    server = start_server(fixture.bento, ServeConfig(port=0, workers=workers), fixture.home, model_name=NAME)
    try:
        server.wait_until_ok("/readyz")
        wait_until(lambda: len(worker_versions(server)) == workers)
        yield server
    finally:
        server.stop()


def all_serve(server: Server, version: str) -> bool:
    return set(worker_versions(server).values()) == {version}


def worker_versions(server: Server) -> dict[int, str]:
    """Return the version that each worker serves, from `/info`."""
    info = httpx.get(f"{server.url}/info", timeout=5, trust_env=False).json()
    return {worker["worker"]: worker["version"] for worker in info["workers"]}


def build_png_request(image: np.ndarray) -> bytes:
    """Make a PNG request, which is decoded and predicted in a thread."""
    return _build_request("image/png", encode_png(image))


def build_json_request(image: np.ndarray) -> bytes:
    """Make a JSON request, which is predicted in the event loop."""
    return _build_request("application/json", json.dumps({"images": image.tolist()}).encode())


def _build_request(media_type: str, body: bytes) -> bytes:
    head = f"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: {media_type}\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def _to_row(response: Response, fixture: ReleaseFixture) -> dict[str, Any]:
    """Convert a response to a row of `LoadTest.responses`."""
    seconds = response.received_at - response.sent_at
    row = {
        "received_at": response.received_at,
        "seconds": seconds,
        "connection": response.connection,
        "is_correct": False,
    }
    if response.status != 200:
        return row | {"status": response.status, "version": "", "worker": 0}
    content = json.loads(response.body)
    probabilities = list(content["predictions"][0]["probabilities"].values())
    expected = fixture.expected[content["version"]][response.request_index]
    is_correct = bool(np.allclose(probabilities, expected, rtol=0, atol=1e-5))
    return row | {
        "status": 200,
        "version": content["version"],
        "worker": content["worker"],
        "is_correct": is_correct,
    }


def wait_until(condition: Callable[..., object], *arguments: Any) -> None:
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
            load_test = run_load_test(ReleaseFixture(Path(folder)), workers)
        during_change_ms, steady_ms = (
            load_test.latencies_ms(during_change=True),
            load_test.latencies_ms(during_change=False),
        )
        rows.append(
            {
                "workers": workers,
                "requests": f"{len(load_test.responses):,}",
                "failed": load_test.failed_count,
                "other than the named version's": load_test.wrong_count,
                "from a version that was replaced": load_test.stale_count,
                "seconds until all workers swapped, median": f"{np.median(load_test.reload_seconds):.2f}",
                "at most": f"{max(load_test.reload_seconds):.2f}",
                "ms a request, 50 % and 99 %": "{:.1f}, {:.1f}".format(*np.percentile(steady_ms, (50, 99))),
                "within a second of a swap": "{:.1f}, {:.1f}".format(
                    *np.percentile(during_change_ms, (50, 99))
                ),
            }
        )
    plot(load_test).savefig(FIGURE_FILE)
    note = (
        f"{CONNECTIONS} connections that stay open, each asking again as soon as it is answered, PNG and "
        "JSON in turn; ten promotions and two rollbacks, each through the ledger. Every answer is compared "
        "with what the version that it names answers offline (within 1e-5). An answer counts as from a "
        "version that was replaced where its worker had already answered the same connection from a later "
        "one. Clients and server share the cores."
    )
    return "Hot reload under load", note, pd.DataFrame(rows)


def plot(load_test: LoadTest) -> Any:
    """Plot requests over time, colored by the answering version."""
    responses = load_test.responses
    start_time = responses["received_at"].min()
    edges = np.linspace(0, responses["received_at"].max() - start_time, 121)
    versions = sorted({"1", *(version for _, version, _ in load_test.changes)}, key=int)
    counts = [
        np.histogram(responses["received_at"][responses["version"] == version] - start_time, edges)[0]
        / np.diff(edges)
        for version in versions
    ]
    figure = create_figure(
        3.8,
        f"{len(responses):,} requests, {load_test.failed_count} failed, "
        f"{load_test.wrong_count} answered wrongly, "
        f"{len(load_test.changes)} changes",
    )
    axes = figure.subplots()
    color_list = [COLORS[int(version) % len(COLORS)] for version in versions]
    axes.stackplot(edges[:-1], counts, step="post", colors=color_list, linewidth=0)
    top = axes.get_ylim()[1]
    for at, version, back in load_test.changes:
        axes.axvline(at - start_time, color=BLACK, linestyle=":" if back else "-", linewidth=0.8)
        axes.text(at - start_time, top, f" {'back to ' if back else ''}{version}", va="top", fontsize=8)
    axes.set_xlabel("seconds")
    axes.set_ylabel("requests/s, colored by version")
    axes.margins(x=0)
    style_axes(axes)
    return figure
