"""What is recorded of real requests to real servers, read back by pandas."""

import base64
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest
from jsonschema import Draft202012Validator

from relearn.model.drift.image_statistics import STATISTICS, compute_statistics
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.serving.config import ServeConfig
from relearn.serving.deployment.server import Server, start_server
from relearn.serving.metrics.textfile_metrics import MONITOR_FILE, TextfileMetrics
from relearn.serving.predictions import prediction_log, reader
from relearn.serving.predictions.prediction_log import PredictionLog
from relearn.serving.releases.ledger import Release
from relearn.serving.releases.store import ReleaseStore
from relearn.serving.runtime.hot_reload import ServedModel

FOLLOWING = "digits"
SOON = 0.6  # seconds after which a record is on disk: 0.25 and the time to write it


# More numbers than one image has, which /predict would take for too many images.
MANY = b'{"request_id": "a", "label": "1", "image": [%s]}' % b",".join([b"1"] * 9_999)


@pytest.fixture(scope="module")
def make_home(
    saved: Path, publish: Callable[..., Release], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], Home]:
    """Makes homes where version 3 is live."""

    def done() -> Home:
        root = tmp_path_factory.mktemp("recording")
        home = Home(root, root)
        publish(ReleaseStore(home.releases_dir(FOLLOWING)), "3", saved)
        return home

    return done


@contextmanager
def served(home: Home, config: ServeConfig) -> Iterator[tuple[Server, httpx.Client]]:
    """A server from source that follows `digits`."""
    server = start_server(None, config, home, model_name=FOLLOWING)
    try:
        server.wait_until_ok("/readyz")
        with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client:
            yield server, client
    finally:
        server.stop()


@pytest.fixture(scope="module")
def own_home(make_home: Callable[[], Home]) -> Home:
    return make_home()


@pytest.fixture(scope="module")
def recording(own_home: Home) -> Iterator[tuple[Server, httpx.Client]]:
    """Two workers that keep the images of half of the requests."""
    config = ServeConfig(port=0, workers=2, graceful_timeout_seconds=2, image_sample_rate=0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BENTOML_HOME", raising=False)
        with served(own_home, config) as (server, client):
            deadline = time.monotonic() + 30
            while len(client.get("/info").json()["workers"]) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield server, client


def ask(client: httpx.Client, images: np.ndarray, request_id: str) -> dict[str, str]:
    answer = client.post(
        "/predict",
        json={"images": images.reshape(len(images), -1).tolist()},
        headers={"x-request-id": request_id, "connection": "close"},  # so that each worker gets some
    )
    assert 200 == answer.status_code, answer.text
    return answer.json()


def told(client: httpx.Client, **body: object) -> dict[str, str]:
    answer = client.post("/feedback", json=body)
    assert 200 == answer.status_code, answer.text
    return answer.json()


def by_id(folder: Path, start: str) -> pd.DataFrame:
    """The records whose request id starts so, once they are on disk."""
    time.sleep(SOON)
    frame = reader.load_predictions(folder)
    return frame[frame["request_id"].str.startswith(start)]


def test_what_is_answered_is_recorded(
    recording: tuple[Server, httpx.Client], own_home: Home, images: np.ndarray, classifier: Classifier
):
    """By all workers: which image of which request, when, by which version, with its numbers and traits."""
    _, client = recording
    begun = pd.Timestamp.now("UTC")
    answers: dict[str, dict] = {}
    while len({answer["worker"] for answer in answers.values()}) < 2 or len(answers) < 20:
        n = len(answers)
        assert n < 2_000, "one worker takes all"
        answers[f"trip-{n}"] = ask(client, images[n % 60 : n % 60 + 3], f"trip-{n}")

    frame = by_id(own_home.prediction_log_dir(FOLLOWING), "trip-")

    count = 3 * len(answers)
    assert (count, count) == (len(frame), len(frame[["request_id", "index"]].drop_duplicates()))
    assert {"3"} == set(frame["version"])
    assert {1, 2} == set(frame["worker"])
    assert frame["time"].between(begun, pd.Timestamp.now("UTC")).all()
    for row in frame.to_dict("records"):
        answer, which = answers[row["request_id"]], int(row["request_id"][5:]) % 60 + row["index"]
        assert (answer["worker"], answer["predictions"][row["index"]]["label"]) == (
            row["worker"],
            row["label"],
        )
        expected = classifier.predict(images[which : which + 1])[0]
        assert np.allclose(expected, [row[f"p_{digit}"] for digit in range(10)], atol=1e-5)
        assert np.allclose(
            compute_statistics(images[which : which + 1])[0], [row[name] for name in STATISTICS]
        )
        assert pd.isna(row["truth"])


def test_only_the_owner_may_read(recording: tuple[Server, httpx.Client], own_home: Home, images: np.ndarray):
    """Folder 0700, files 0600."""
    ask(recording[1], images[:1], "mode")
    time.sleep(SOON)
    folder = own_home.prediction_log_dir(FOLLOWING)

    assert 0o700 == folder.stat().st_mode & 0o777
    assert {0o600} == {file.stat().st_mode & 0o777 for file in folder.iterdir()}


def test_what_the_monitor_saw_is_among_the_metrics(recording: tuple[Server, httpx.Client], own_home: Home):
    """Of every worker, as soon as it is beside the records, and no longer than that."""
    folder = own_home.prediction_log_dir(FOLLOWING)
    TextfileMetrics(MONITOR_FILE, {"relearn_drift": {"foreground_fraction": 1.0}}).write(folder)
    told = recording[1].get("/metrics").text
    (folder / MONITOR_FILE).unlink()

    assert 'relearn_drift{test="foreground_fraction"} 1.0' in told.splitlines()
    assert "relearn_requests_total" in told
    assert "relearn_drift" not in recording[1].get("/metrics").text


def test_images_are_kept_of_a_share_of_requests(
    recording: tuple[Server, httpx.Client], own_home: Home, images: np.ndarray
):
    """All images of a request or none; which ones, every worker says alike when feedback comes, and that it
    is so if the prediction was recorded: none of them knows that of all."""
    _, client = recording
    for n in range(40):
        ask(client, images[n : n + 2], f"half-{n}")
    time.sleep(SOON)

    kept = {
        which: image
        for which, image in reader.load_images(own_home.prediction_log_dir(FOLLOWING)).items()
        if which[0][:5] == "half-"
    }

    chosen = {request_id for request_id, _ in kept}
    assert 8 < len(chosen) < 32
    assert {(request_id, index) for request_id in chosen for index in (0, 1)} == set(kept)
    for (request_id, index), image in kept.items():
        assert np.array_equal(images[int(request_id[5:]) + index], image)
    for n in range(10):
        answer = told(client, request_id=f"half-{n}", label="1")
        assert ("sampled" if f"half-{n}" in chosen else "none") == answer["image"]
        assert ("cannot become training data" in answer["note"]) == (answer["image"] == "none")
        assert answer["note"].startswith("If that prediction was recorded, ")


def test_an_image_is_kept_that_came_with_feedback(recording: tuple[Server, httpx.Client], own_home: Home):
    """Whether or not there is a prediction to it; without one it counts for no accuracy, and is told so."""
    _, client = recording
    answer = told(client, request_id="never-asked", index=7, label="1", image=[0] * 784)

    assert "kept" == answer["image"]
    assert answer["note"].startswith("With its image it can become training data. If that prediction was ")
    assert ("never-asked", 7) in reader.load_images(own_home.prediction_log_dir(FOLLOWING))
    assert by_id(own_home.prediction_log_dir(FOLLOWING), "never-asked").empty


def test_feedback_is_joined(
    recording: tuple[Server, httpx.Client],
    own_home: Home,
    images: np.ndarray,
    encoded: Callable[..., bytes],
):
    """To its image by request id and index; the last word on an image counts; its image is kept with it."""
    _, client = recording
    for name in ("said-a", "said-b", "said-c", "said-c"):
        ask(client, images[:3], name)
    picture = base64.b64encode(encoded(images[1])).decode()
    told(client, request_id="said-a", index=1, label="7", image=picture)
    told(client, request_id="said-b", label="1", image=images[0].ravel().tolist())
    told(client, request_id="said-b", label="2")
    told(client, request_id="said-c", index=2, label="3")
    told(client, request_id="said-of-nothing", label="9")

    frame = by_id(own_home.prediction_log_dir(FOLLOWING), "said-")

    assert 12 == len(frame)
    truths = frame[frame["truth"].notna()].set_index(["request_id", "index"])["truth"]
    assert {("said-a", 1): "7", ("said-b", 0): "2", ("said-c", 2): "3"} == truths.to_dict()
    assert frame["truth"].isna().iloc[:9].sum() == 7  # of two requests with one id, the last is meant
    kept = reader.load_images(own_home.prediction_log_dir(FOLLOWING))
    assert np.array_equal(images[1], kept["said-a", 1])
    assert np.array_equal(images[0], kept["said-b", 0])


def test_the_answer_to_feedback_is_as_the_document_promises(recording: tuple[Server, httpx.Client]):
    """With an image or without."""
    _, client = recording
    document = client.get("/openapi.json").json()
    schema = Draft202012Validator({"$ref": "#/components/schemas/Kept"} | document)

    schema.validate(told(client, request_id="a", label="1"))
    schema.validate(told(client, request_id="a", label="1", image=[0] * 784))


@pytest.mark.parametrize(
    ("body", "status", "code", "message"),
    [
        (b"", 400, "empty_body", "body: got none"),
        (b"{", 400, "invalid_json", "body: no valid JSON"),
        (b'{"label": "\xff"}', 400, "invalid_json", "body: no valid JSON"),
        (b'{"image": ' + b"[" * 100_000, 400, "too_deep", "nested too deeply"),
        (b'{"request_id": "a", "label": "1", "label": "2"}', 400, "duplicate_key", "body: got a"),
        (b'{"request_id": "a", "l\\u0061bel": "1", "label": "2"}', 400, "duplicate_key", "body: got a"),
        (b'{"image": ["x"], "request_id": "a", "label": "1", "image": 0}', 400, "duplicate_key", "body: got"),
        (b'{"request_id": "a", "index": 1, "index": 0, "label": "1"}', 400, "duplicate_key", "body: got a"),
        (b'{"label": "1"}', 422, "missing_field", 'body: accepted: an object with "request_id"'),
        (b'{"request_id": "a", "label": "1", "x": 1}', 422, "unknown_field", "body: accepted: an object"),
        (b'[]', 422, "wrong_type", "body: accepted: an object"),
        (b'{"request_id": "../a", "label": "1"}', 422, "wrong_type", "request_id: accepted: that of"),
        (b'{"request_id": "a\\n", "label": "1"}', 422, "wrong_type", "request_id: accepted: that of"),
        (b'{"request_id": "a", "label": 1}', 422, "wrong_type", "label: accepted: the name of a class"),
        (b'{"request_id": "a", "label": "11"}', 422, "unknown_class", "label: accepted: 0, 1, 2, "),
        (b'{"request_id": "a", "label": "1", "index": -1}', 422, "wrong_type", "index: accepted: the place"),
        (b'{"request_id": "a", "label": "1", "image": [1]}', 422, "wrong_shape", "image: got 1, accepted"),
        (MANY, 422, "wrong_shape", "image: got 9999 numbers, accepted: "),
        (b'{"request_id": "a", "label": "1", "image": "no"}', 422, "wrong_type", "image: got another string"),
        (b'{"request_id": "a", "label": "1", "image": "R0lG"}', 415, "unsupported_image", "image: the image"),
    ],
)  # fmt: skip
def test_bad_feedback_is_refused_by_name(
    recording: tuple[Server, httpx.Client], body: bytes, status: int, code: str, message: str
):
    """One line each: what was wrong, what is accepted; nothing of the body."""
    answer = recording[1].post("/feedback", content=body, headers={"content-type": "application/json"})

    assert (status, code) == (answer.status_code, answer.json()["error"]["code"])
    assert answer.json()["error"]["message"].startswith(message) or "too_deep" == code
    assert message in answer.json()["error"]["message"]


def test_feedback_is_json_only(recording: tuple[Server, httpx.Client]):
    """No form of another page reaches it."""
    answer = recording[1].post("/feedback", data={"request_id": "a", "label": "1"})

    assert (415, "unsupported_media_type") == (answer.status_code, answer.json()["error"]["code"])


def test_a_kill_loses_the_last_second_at_most(
    recording: tuple[Server, httpx.Client], own_home: Home, images: np.ndarray
):
    """Every worker killed with -9 amid requests: what was answered a second before is there."""
    server, client = recording
    answered: dict[str, float] = {}
    begun = time.monotonic()
    while time.monotonic() < begun + 2:
        request_id = f"kill-{len(answered)}"
        ask(client, images[:1], request_id)
        answered[request_id] = time.monotonic()
    for process in (server.process.pid, *[worker.pid for worker in server.worker_processes]):
        os.kill(process, signal.SIGKILL)
    killed = time.monotonic()

    frame = by_id(own_home.prediction_log_dir(FOLLOWING), "kill-")

    old = {request_id for request_id, moment in answered.items() if moment < killed - 1}
    assert len(old) > 20
    assert set() == old - set(frame["request_id"])


def test_a_stopped_server_has_recorded_all(make_home: Callable[[], Home], images: np.ndarray):
    """SIGTERM right after an answer: its record is written before the worker ends."""
    home = make_home()
    with served(home, ServeConfig(port=0, graceful_timeout_seconds=2)) as (_, client):
        for n in range(20):
            ask(client, images[:1], f"last-{n}")

    assert 20 == len(reader.load_predictions(home.prediction_log_dir(FOLLOWING)))


def lost(client: httpx.Client) -> float:
    line = next(
        line
        for line in client.get("/metrics").text.splitlines()
        if line.startswith("relearn_prediction_log_dropped_total")
    )
    return float(line.split()[1])


def times(client: httpx.Client, images: np.ndarray, name: str) -> list[float]:
    """Seconds that each of 100 requests took."""
    taken = []
    for n in range(100):
        begun = time.perf_counter()
        ask(client, images, f"{name}-{n}")
        taken.append(time.perf_counter() - begun)
    return taken


def fill(folder: Path) -> Path:
    """Leaves no room on the disk of `folder`; returns the file that takes it all."""
    filler = folder / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler


@pytest.mark.needs("mount", "umount")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_fails_no_request(make_home: Callable[[], Home], images: np.ndarray):
    """Requests are answered as quickly; what is lost is counted, and told in the log once. With room again
    it is recorded again, and nothing on disk is torn."""
    home = make_home()
    folder = home.prediction_log_dir(FOLLOWING)
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    try:
        with served(home, ServeConfig(port=0, graceful_timeout_seconds=2, image_sample_rate=1)) as (
            server,
            client,
        ):
            before = np.median(times(client, images[:1], "before"))
            time.sleep(SOON)
            filler = fill(folder)
            after = np.median(times(client, images[:1], "full"))
            time.sleep(SOON)

            assert after < 2 * before + 0.005
            assert 50 < lost(client) <= 100  # some fit into what was begun
            assert 1 == server.log_file.read_text().count("records cannot be written")
            answer = client.post("/feedback", json={"request_id": "full-1", "label": "1"})
            assert (503, "not_recorded") == (answer.status_code, answer.json()["error"]["code"])

            filler.unlink()
            ask(client, images[:1], "again")
            frame = by_id(folder, "")
            assert {"before-99", "again"} <= set(frame["request_id"])
            assert np.allclose(1, frame.filter(like="p_").sum(axis=1), atol=1e-4)
            assert "records are written again" in server.log_file.read_text()
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.needs("mount", "umount")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_home_that_is_full_fails_no_request(tmp_path: Path, saved: Path, publish: Callable[..., Release]):
    """What is answered is counted in memory, and no page of a full disk touched; a worker that is killed is
    replaced."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(tmp_path)], check=True)
    try:
        home = Home(tmp_path / "home", tmp_path)
        publish(ReleaseStore(home.releases_dir(FOLLOWING)), "1", saved)
        blank = bytes(784)
        with served(home, ServeConfig(port=0, graceful_timeout_seconds=2)) as (server, client):
            fill(tmp_path)
            for route in ("/livez", "/predict", "/info", "/metrics", "/nothing"):
                content = {"content": blank} if route == "/predict" else {}
                headers = {"content-type": "application/octet-stream"}
                for _ in range(20):
                    answer = client.request("POST" if content else "GET", route, headers=headers, **content)
                    assert (404 if route == "/nothing" else 200) == answer.status_code
            os.kill(server.worker_processes[-1].pid, signal.SIGKILL)
            server.wait_until_ok("/readyz", 30)
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_folder_that_cannot_be_made_fails_no_request(make_home: Callable[[], Home], images: np.ndarray):
    """A file stands where the folder would: answers as ever, told once, and counted; feedback is refused."""
    home = make_home()
    (home.root / "predictions").mkdir()
    home.prediction_log_dir(FOLLOWING).write_text("")
    with served(home, ServeConfig(port=0, graceful_timeout_seconds=2)) as (server, client):
        ask(client, images, "one")
        time.sleep(SOON)
        ask(client, images, "two")
        time.sleep(SOON)

        assert 2 * len(images) == lost(client)
        assert 1 == server.log_file.read_text().count("records cannot be written")
        answer = client.post("/feedback", json={"request_id": "one", "label": "1"})
        assert (503, "not_recorded") == (answer.status_code, answer.json()["error"]["code"])
        assert str(home.root) not in answer.text


def test_records_can_be_off(make_home: Callable[[], Home], images: np.ndarray):
    """Nothing is written, and feedback is refused with the reason."""
    home = make_home()
    with served(home, ServeConfig(port=0, graceful_timeout_seconds=2, log_predictions=False)) as (_, client):
        ask(client, images, "one")
        answer = client.post("/feedback", json={"request_id": "one", "label": "1"})

        assert (409, "records_off") == (answer.status_code, answer.json()["error"]["code"])
    assert not (home.root / "predictions").exists()


def test_a_bento_by_itself_records_nothing(client: httpx.Client):
    """A server that follows no name has no folder for it."""
    answer = client.post("/feedback", json={"request_id": "one", "label": "1"})

    assert (409, "records_off") == (answer.status_code, answer.json()["error"]["code"])


def test_nothing_recorded_is_an_empty_table(tmp_path: Path):
    """Not an error."""
    assert reader.load_predictions(tmp_path / "nowhere").empty
    assert {} == reader.load_images(tmp_path / "nowhere")


def test_closing_writes_what_waits(
    tmp_path: Path, classifier: Classifier, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    """At once, however long the next turn would have been; nothing is lost."""
    monkeypatch.setattr(prediction_log, "FLUSH_INTERVAL_SECONDS", 60)
    one = PredictionLog(tmp_path, ServeConfig(), 1, lambda count: pytest.fail(f"{count} lost"))
    one.log("last", ServedModel("3", classifier), images, classifier.predict(images))
    one.close()

    assert images.shape[0] == len(reader.load_predictions(tmp_path))


def test_what_waits_is_bounded(
    tmp_path: Path, classifier: Classifier, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    """A disk that hangs costs memory up to a limit, then records, and never a request."""
    lost: list[int] = []
    monkeypatch.setattr(prediction_log, "FLUSH_INTERVAL_SECONDS", 60)
    monkeypatch.setattr(prediction_log, "MAX_QUEUE_BYTES", 3 * images.nbytes)
    one = PredictionLog(tmp_path, ServeConfig(), 1, lost.append)
    for _ in range(5):
        one.log("many", ServedModel("3", classifier), images, classifier.predict(images))
    one.close()

    assert [64, 64, 64] == lost
    assert 2 * 64 == len(reader.load_predictions(tmp_path))
