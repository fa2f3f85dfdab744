"""Promises of the prediction log: requests to real servers, read back into pandas."""

import base64
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from relearn.model.drift.image_statistics import STATISTICS, compute_statistics
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.serving.config import ServeConfig
from relearn.serving.deployment.server import Server, start_server
from relearn.serving.metrics.textfile_metrics import MONITOR_FILE, TextfileMetrics
from relearn.serving.predictions import prediction_log, reader
from relearn.serving.predictions.entries import Feedback, LoggedImage, Prediction
from relearn.serving.predictions.prediction_log import PredictionLog
from relearn.serving.releases.ledger import Release
from relearn.serving.releases.store import ReleaseStore
from relearn.serving.runtime.hot_reload import ServedModel

MODEL_NAME = "digits"
FLUSH_SECONDS = 0.6  # until a record is on disk: 0.25 and the time to write it


# More numbers than one image has; /predict would report too many images.
BLANK_IMAGE = b'{"request_id": "a", "label": "1", "image": [%s]}' % b",".join([b"7"] * 784)
TOO_MANY_NUMBERS = b'{"request_id": "a", "label": "1", "image": [%s]}' % b",".join([b"1"] * 9_999)


@pytest.fixture(scope="module")
def make_home(
    saved: Path, publish: Callable[..., Release], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], Home]:
    """Return a function that creates a home where version 3 is live."""

    def create() -> Home:
        root = tmp_path_factory.mktemp("recording")
        home = Home(root, root)
        publish(ReleaseStore(home.releases_dir(MODEL_NAME)), "3", saved)
        return home

    return create


@contextmanager
def run_logging_server(home: Home, config: ServeConfig) -> Iterator[tuple[Server, httpx.Client]]:
    """Run a server from source that follows the releases of `digits`."""
    server = start_server(None, config, home, model_name=MODEL_NAME)
    try:
        server.wait_until_ok("/readyz")
        with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client:
            yield server, client
    finally:
        server.stop()


@pytest.fixture(scope="module")
def logging_home(make_home: Callable[[], Home]) -> Home:
    return make_home()


@pytest.fixture(scope="module")
def logging_server(logging_home: Home) -> Iterator[tuple[Server, httpx.Client]]:
    """A server with two workers that log the images of half of the requests."""
    config = ServeConfig(port=0, workers=2, graceful_timeout_seconds=2, image_sample_rate=0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BENTOML_HOME", raising=False)
        with run_logging_server(logging_home, config) as (server, client):
            deadline = time.monotonic() + 30
            while len(client.get("/info").json()["workers"]) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield server, client


def predict(client: httpx.Client, images: np.ndarray, request_id: str) -> dict[str, str]:
    response = client.post(
        "/predict",
        json={"images": images.reshape(len(images), -1).tolist()},
        headers={"x-request-id": request_id, "connection": "close"},  # so that both workers get requests
    )
    assert 200 == response.status_code, response.text
    return response.json()


def send_feedback(client: httpx.Client, **body: object) -> dict[str, str]:
    response = client.post("/feedback", json=body)
    assert 200 == response.status_code, response.text
    return response.json()


def load_by_prefix(folder: Path, prefix: str) -> pd.DataFrame:
    """Load the records with this prefix of the request id, once they are on disk."""
    time.sleep(FLUSH_SECONDS)
    frame = reader.load_predictions(folder)
    return frame[frame["request_id"].str.startswith(prefix)]


def test_predictions_are_logged(
    logging_server: tuple[Server, httpx.Client],
    logging_home: Home,
    images: np.ndarray,
    classifier: Classifier,
):
    """All workers log request id, index, time, version, probabilities and statistics of each image."""
    _, client = logging_server
    start_time = pd.Timestamp.now("UTC")
    responses: dict[str, dict] = {}
    while len({response["worker"] for response in responses.values()}) < 2 or len(responses) < 20:
        n = len(responses)
        assert n < 2_000, "one worker gets every request"
        responses[f"trip-{n}"] = predict(client, images[n % 60 : n % 60 + 3], f"trip-{n}")

    frame = load_by_prefix(logging_home.prediction_log_dir(MODEL_NAME), "trip-")

    count = 3 * len(responses)
    assert (count, count) == (len(frame), len(frame[["request_id", "index"]].drop_duplicates()))
    assert {"3"} == set(frame["version"])
    assert {1, 2} == set(frame["worker"])
    assert frame["time"].between(start_time, pd.Timestamp.now("UTC")).all()
    for row in frame.to_dict("records"):
        response, position = responses[row["request_id"]], int(row["request_id"][5:]) % 60 + row["index"]
        assert (response["worker"], response["predictions"][row["index"]]["label"]) == (
            row["worker"],
            row["predicted_label"],
        )
        image = images[position : position + 1]
        probabilities = classifier.predict(image)[0]
        assert np.allclose(probabilities, [row[f"p_{digit}"] for digit in range(10)], atol=1e-5)
        assert np.allclose(compute_statistics(image)[0], [row[name] for name in STATISTICS])
        assert pd.isna(row["label"])


def test_only_the_owner_may_read_the_log(
    logging_server: tuple[Server, httpx.Client], logging_home: Home, images: np.ndarray
):
    """The folder has mode 0700, its files 0600."""
    predict(logging_server[1], images[:1], "mode")
    time.sleep(FLUSH_SECONDS)
    folder = logging_home.prediction_log_dir(MODEL_NAME)

    assert 0o700 == folder.stat().st_mode & 0o777
    assert {0o600} == {file.stat().st_mode & 0o777 for file in folder.iterdir()}


def test_metrics_include_the_numbers_of_the_monitor(
    logging_server: tuple[Server, httpx.Client], logging_home: Home
):
    """Every worker reports them while the file is in the folder of the prediction log."""
    folder = logging_home.prediction_log_dir(MODEL_NAME)
    TextfileMetrics(MONITOR_FILE, {"relearn_drift": {"foreground_fraction": 1.0}}).write(folder)
    metrics = logging_server[1].get("/metrics").text
    (folder / MONITOR_FILE).unlink()

    assert 'relearn_drift{test="foreground_fraction"} 1.0' in metrics.splitlines()
    assert "relearn_requests_total" in metrics
    assert "relearn_drift" not in logging_server[1].get("/metrics").text


def test_images_of_a_fraction_of_requests_are_logged(
    logging_server: tuple[Server, httpx.Client], logging_home: Home, images: np.ndarray
):
    """All images of a request are logged or none. Every worker gives the same answer to feedback, and only
    conditionally: no worker knows whether another one recorded the prediction."""
    _, client = logging_server
    for n in range(40):
        predict(client, images[n : n + 2], f"half-{n}")
    time.sleep(FLUSH_SECONDS)

    logged_images = {
        key: image
        for key, image in reader.load_images(logging_home.prediction_log_dir(MODEL_NAME)).items()
        if key[0][:5] == "half-"
    }

    sampled_ids = {request_id for request_id, _ in logged_images}
    assert 8 < len(sampled_ids) < 32
    assert {(request_id, index) for request_id in sampled_ids for index in (0, 1)} == set(logged_images)
    for (request_id, index), image in logged_images.items():
        assert np.array_equal(images[int(request_id[5:]) + index], image)
    for n in range(10):
        response = send_feedback(client, request_id=f"half-{n}", label="1")
        assert ("sampled" if f"half-{n}" in sampled_ids else "none") == response["image"]
        assert ("cannot become training data" in response["note"]) == (response["image"] == "none")
        assert response["note"].startswith("If that prediction was recorded, ")


def test_image_sent_with_feedback_is_kept(
    logging_server: tuple[Server, httpx.Client], logging_home: Home, images: np.ndarray
):
    """It needs no logged prediction; without one it does not count for accuracy, as the response says."""
    _, client = logging_server
    response = send_feedback(
        client, request_id="never-asked", index=7, label="1", image=images[0].ravel().tolist()
    )

    assert "kept" == response["image"]
    assert response["note"].startswith("With its image it can become training data. If that prediction was ")
    assert ("never-asked", 7) in reader.load_images(logging_home.prediction_log_dir(MODEL_NAME))
    assert load_by_prefix(logging_home.prediction_log_dir(MODEL_NAME), "never-asked").empty


def test_feedback_is_joined_with_predictions(
    logging_server: tuple[Server, httpx.Client],
    logging_home: Home,
    images: np.ndarray,
    encoded: Callable[..., bytes],
):
    """The join key is request id and index; the last feedback for an image counts; its image is kept."""
    _, client = logging_server
    for name in ("said-a", "said-b", "said-c", "said-c"):
        predict(client, images[:3], name)
    image_text = base64.b64encode(encoded(images[1])).decode()
    send_feedback(client, request_id="said-a", index=1, label="7", image=image_text)
    send_feedback(client, request_id="said-b", label="1", image=images[0].ravel().tolist())
    send_feedback(client, request_id="said-b", label="2")
    send_feedback(client, request_id="said-c", index=2, label="3")
    send_feedback(client, request_id="said-of-nothing", label="9")

    frame = load_by_prefix(logging_home.prediction_log_dir(MODEL_NAME), "said-")

    assert 12 == len(frame)
    labels = frame[frame["label"].notna()].set_index(["request_id", "index"])["label"]
    assert {("said-a", 1): "7", ("said-b", 0): "2", ("said-c", 2): "3"} == labels.to_dict()
    assert frame["label"].isna().iloc[:9].sum() == 7  # feedback refers to the last request with its id
    logged_images = reader.load_images(logging_home.prediction_log_dir(MODEL_NAME))
    assert np.array_equal(images[1], logged_images["said-a", 1])
    assert np.array_equal(images[0], logged_images["said-b", 0])


def test_feedback_response_matches_the_openapi_schema(
    logging_server: tuple[Server, httpx.Client], images: np.ndarray
):
    """The promise covers feedback with and without an image."""
    _, client = logging_server
    document = client.get("/openapi.json").json()
    schema = Draft202012Validator({"$ref": "#/components/schemas/FeedbackReceipt"} | document)

    schema.validate(send_feedback(client, request_id="a", label="1"))
    schema.validate(send_feedback(client, request_id="a", label="1", image=images[0].ravel().tolist()))


@pytest.mark.parametrize(
    ("body", "status", "code", "message"),
    [
        (b"", 400, "empty_body", "body: got none"),
        (b"{", 400, "invalid_json", "body: invalid JSON at byte 1"),
        (b'{"label": "\xff"}', 400, "invalid_encoding", "body: byte 11 is not UTF-8"),
        (b'{"image": ' + b"[" * 100_000, 400, "too_deep", "nested too deeply"),
        (b'{"request_id": "a", "label": "1", "label": "2"}', 400, "duplicate_key", "body: got a"),
        (b'{"request_id": "a", "l\\u0061bel": "1", "label": "2"}', 400, "duplicate_key", "body: got a"),
        (b'{"image": ["x"], "request_id": "a", "label": "1", "image": 0}', 400, "duplicate_key", "body: got"),
        (b'{"request_id": "a", "index": 1, "index": 0, "label": "1"}', 400, "duplicate_key", "body: got a"),
        (b'{"label": "1"}', 422, "missing_field", "body: got no value of a required member"),
        (b'{"request_id": "a", "label": "1", "x": 1}', 422, "unknown_field", "body: got another member"),
        (b'[]', 422, "wrong_type", "body: got another value"),
        (b'{"request_id": "../a", "label": "1"}', 422, "wrong_type", "request_id: got another value"),
        (b'{"request_id": "a\\n", "label": "1"}', 422, "wrong_type", "request_id: got another value"),
        (b'{"request_id": "a", "label": 1}', 422, "wrong_type", "label: got another value, accept"),
        (b'{"request_id": "a", "label": "11"}', 422, "unknown_class", "label: got another value, "),
        (b'{"request_id": "a", "label": "1", "index": -1}', 422, "wrong_type", "index: got another value"),
        (b'{"request_id": "a", "label": "1", "image": [1]}', 422, "wrong_shape", "image: got 1, accepted"),
        (TOO_MANY_NUMBERS, 422, "wrong_shape", "image: got 9999 numbers, accepted: "),
        (b'{"request_id": "a", "label": "1", "image": "no"}', 422, "wrong_type", "image: got another string"),
        (b'{"request_id": "a", "label": "1", "image": "R0lG"}', 422, "wrong_type", "image: got"),
        (BLANK_IMAGE, 422, "no_content", "image: got a blank image, accepted: "),
        (b'{"request_id": "a", "label": "1", "scale": 255}', 422, "unknown_field", "scale: got one without"),
        (BLANK_IMAGE[:-1] + b', "scale": 2}', 422, "out_of_range", "scale: got another value, acc"),
    ],
)  # fmt: skip
def test_invalid_feedback_is_rejected_with_a_code(
    logging_server: tuple[Server, httpx.Client], body: bytes, status: int, code: str, message: str
):
    """The message is one line: what was wrong and what is accepted, without content of the body."""
    headers = {"content-type": "application/json"}
    response = logging_server[1].post("/feedback", content=body, headers=headers)

    assert (status, code) == (response.status_code, response.json()["error"]["code"])
    assert response.json()["error"]["message"].startswith(message) or "too_deep" == code
    assert message in response.json()["error"]["message"]


def test_feedback_accepts_only_json(logging_server: tuple[Server, httpx.Client]):
    """A form on another website cannot send feedback."""
    response = logging_server[1].post("/feedback", data={"request_id": "a", "label": "1"})

    assert (415, "unsupported_media_type") == (response.status_code, response.json()["error"]["code"])


def test_kill_loses_at_most_the_last_second(
    logging_server: tuple[Server, httpx.Client], logging_home: Home, images: np.ndarray
):
    """All workers get SIGKILL under load: every prediction older than one second is logged."""
    server, client = logging_server
    response_times: dict[str, float] = {}
    start_time = time.monotonic()
    while time.monotonic() < start_time + 2:
        request_id = f"kill-{len(response_times)}"
        predict(client, images[:1], request_id)
        response_times[request_id] = time.monotonic()
    for process in (server.process.pid, *[worker.pid for worker in server.worker_processes]):
        os.kill(process, signal.SIGKILL)
    kill_time = time.monotonic()

    frame = load_by_prefix(logging_home.prediction_log_dir(MODEL_NAME), "kill-")

    old_ids = {request_id for request_id, moment in response_times.items() if moment < kill_time - 1}
    assert len(old_ids) > 20
    assert set() == old_ids - set(frame["request_id"])


def test_stopped_server_has_logged_every_prediction(make_home: Callable[[], Home], images: np.ndarray):
    """SIGTERM directly after a response: its record is written before the worker exits."""
    home = make_home()
    with run_logging_server(home, ServeConfig(port=0, graceful_timeout_seconds=2)) as (_, client):
        for n in range(20):
            predict(client, images[:1], f"last-{n}")

    assert 20 == len(reader.load_predictions(home.prediction_log_dir(MODEL_NAME)))


def read_dropped_count(client: httpx.Client) -> float:
    line = next(
        line
        for line in client.get("/metrics").text.splitlines()
        if line.startswith("relearn_prediction_log_dropped_total")
    )
    return float(line.split()[1])


def measure_latencies(client: httpx.Client, images: np.ndarray, name: str) -> list[float]:
    """Send 100 requests and return the seconds of each."""
    latencies = []
    for n in range(100):
        start_time = time.perf_counter()
        predict(client, images, f"{name}-{n}")
        latencies.append(time.perf_counter() - start_time)
    return latencies


def fill_disk(folder: Path) -> Path:
    """Fill the disk of `folder`; return the file that takes the space."""
    filler = folder / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler


@pytest.mark.needs("mount", "umount")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_full_disk_fails_no_request(make_home: Callable[[], Home], images: np.ndarray):
    """Latency stays; dropped predictions are counted and logged once. With free space again logging resumes,
    and no file is corrupt."""
    home = make_home()
    folder = home.prediction_log_dir(MODEL_NAME)
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    try:
        config = ServeConfig(port=0, graceful_timeout_seconds=2, image_sample_rate=1)
        with run_logging_server(home, config) as (server, client):
            latency_before = np.median(measure_latencies(client, images[:1], "before"))
            time.sleep(FLUSH_SECONDS)
            filler = fill_disk(folder)
            latency_full = np.median(measure_latencies(client, images[:1], "full"))
            time.sleep(FLUSH_SECONDS)

            assert latency_full < 2 * latency_before + 0.005
            assert 50 < read_dropped_count(client) <= 100  # some fit into the open files
            assert 1 == server.log_file.read_text().count("the prediction log cannot be written")
            response = client.post("/feedback", json={"request_id": "full-1", "label": "1"})
            assert (503, "feedback_not_saved") == (response.status_code, response.json()["error"]["code"])

            filler.unlink()
            predict(client, images[:1], "again")
            frame = load_by_prefix(folder, "")
            assert {"before-99", "again"} <= set(frame["request_id"])
            assert np.allclose(1, frame.filter(like="p_").sum(axis=1), atol=1e-4)
            assert "the prediction log is written again" in server.log_file.read_text()
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.needs("mount", "umount")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_full_home_fails_no_request(tmp_path: Path, saved: Path, publish: Callable[..., Release]):
    """Metrics are counted in memory, not on the full disk; a killed worker is replaced."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(tmp_path)], check=True)
    try:
        home = Home(tmp_path / "home", tmp_path)
        publish(ReleaseStore(home.releases_dir(MODEL_NAME)), "1", saved)
        blank = bytes(784)
        with run_logging_server(home, ServeConfig(port=0, graceful_timeout_seconds=2)) as (server, client):
            fill_disk(tmp_path)
            for route in ("/livez", "/predict", "/info", "/metrics", "/nothing"):
                content = {"content": blank} if route == "/predict" else {}
                headers = {"content-type": "application/octet-stream"}
                for _ in range(20):
                    method = "POST" if content else "GET"
                    response = client.request(method, route, headers=headers, **content)
                    assert (404 if route == "/nothing" else 200) == response.status_code
            os.kill(server.worker_processes[-1].pid, signal.SIGKILL)
            server.wait_until_ok("/readyz", 30)
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@pytest.mark.slow
def test_missing_log_folder_fails_no_request(make_home: Callable[[], Home], images: np.ndarray):
    """With a file in place of the folder, requests are served; drops are counted and logged once; feedback
    is rejected."""
    home = make_home()
    (home.root / "predictions").mkdir()
    home.prediction_log_dir(MODEL_NAME).write_text("")
    with run_logging_server(home, ServeConfig(port=0, graceful_timeout_seconds=2)) as (server, client):
        predict(client, images, "one")
        time.sleep(FLUSH_SECONDS)
        predict(client, images, "two")
        time.sleep(FLUSH_SECONDS)

        assert 2 * len(images) == read_dropped_count(client)
        assert 1 == server.log_file.read_text().count("the prediction log cannot be written")
        response = client.post("/feedback", json={"request_id": "one", "label": "1"})
        assert (503, "feedback_not_saved") == (response.status_code, response.json()["error"]["code"])
        assert str(home.root) not in response.text


@pytest.mark.slow
def test_prediction_log_can_be_disabled(make_home: Callable[[], Home], images: np.ndarray):
    """Nothing is written, and feedback is rejected with the reason."""
    home = make_home()
    config = ServeConfig(port=0, graceful_timeout_seconds=2, log_predictions=False)
    with run_logging_server(home, config) as (_, client):
        predict(client, images, "one")
        response = client.post("/feedback", json={"request_id": "one", "label": "1"})

        assert (409, "prediction_log_off") == (response.status_code, response.json()["error"]["code"])
    assert not (home.root / "predictions").exists()


def test_standalone_bento_logs_nothing(client: httpx.Client):
    """A server without a model name has no folder for the log."""
    response = client.post("/feedback", json={"request_id": "one", "label": "1"})

    assert (409, "prediction_log_off") == (response.status_code, response.json()["error"]["code"])


def test_empty_log_is_an_empty_table(tmp_path: Path):
    """A missing folder is not an error."""
    assert reader.load_predictions(tmp_path / "nowhere").empty
    assert {} == reader.load_images(tmp_path / "nowhere")


def test_close_flushes_the_queue(
    tmp_path: Path, classifier: Classifier, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    """`close` does not wait for the flush interval, and nothing is dropped."""
    monkeypatch.setattr(prediction_log, "FLUSH_INTERVAL_SECONDS", 60)
    log = PredictionLog(tmp_path, ServeConfig(), 1, lambda count: pytest.fail(f"{count} dropped"))
    log.log("last", ServedModel("3", classifier), images, classifier.predict(images))
    log.close()

    frame = reader.load_predictions(tmp_path)
    assert images.shape[0] == len(frame)
    assert np.array_equal(classifier.predict(images), frame.filter(like="p_"))
    assert np.array_equal(compute_statistics(images), frame[list(STATISTICS)])


def test_queue_is_bounded(
    tmp_path: Path, classifier: Classifier, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    """A hanging disk costs memory up to the limit, then records, but never a request."""
    dropped_counts: list[int] = []
    monkeypatch.setattr(prediction_log, "FLUSH_INTERVAL_SECONDS", 60)
    monkeypatch.setattr(prediction_log, "MAX_QUEUE_BYTES", 3 * images.nbytes)
    log = PredictionLog(tmp_path, ServeConfig(), 1, dropped_counts.append)
    for _ in range(5):
        log.log("many", ServedModel("3", classifier), images, classifier.predict(images))
    log.close()

    assert [64, 64, 64] == dropped_counts
    assert 2 * 64 == len(reader.load_predictions(tmp_path))


def test_old_files_are_ignored_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Files of an earlier version have no suffix; they are not counted either."""
    for number in range(3):
        (tmp_path / f"predictions-{number}-1").write_bytes(b'{"columns": []}\n\x00\n\x00')

    assert reader.load_predictions(tmp_path).empty
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path}: 3 files predictions-* are ignored")
    assert (0, 0) == reader.count_entries(tmp_path)


TIMES = st.integers(0, 1_000 * (2**33 - 1)).map(lambda milliseconds: milliseconds / 1_000)
KEYS = st.tuples(st.text("aé-0_1", min_size=1), st.integers(0, 2**32 - 1), TIMES)
UNIT = st.floats(0, 1, width=32)
VERSIONS = {"1": ("0", "1"), "2": ("0", "ü", "p_")}  # version: classes


@st.composite
def predictions(draw: st.DrawFn) -> Prediction:
    version = draw(st.sampled_from(sorted(VERSIONS)))
    probabilities = {name: draw(UNIT) for name in VERSIONS[version]}
    return Prediction(*draw(KEYS), 1, version, "0", probabilities, *draw(st.tuples(*[UNIT] * 6)))


@settings(deadline=None, max_examples=25)
@given(entries=st.lists(predictions(), min_size=1))
def test_predictions_round_trip(entries: list[Prediction], tmp_path_factory: pytest.TempPathFactory):
    """Every value is read as it was written, by the reader and by one line of pandas; other fields and an
    incomplete last line are ignored."""
    folder = tmp_path_factory.mktemp("log")
    lines = msgspec.json.Encoder().encode_lines(entries)
    extended = lines.replace(b"{", b'{"sampled":true,', 1)
    (folder / "predictions-1-1.jsonl").write_bytes(extended + lines[:-1].rpartition(b"\n")[2])

    frame = reader.load_predictions(folder)
    (folder / "predictions-1-1.jsonl").write_bytes(lines)
    (one_line,) = [pd.read_json(file, lines=True, dtype=False) for file in folder.glob("predictions-*")]

    ordered = sorted(entries, key=lambda entry: entry.time)
    assert len(entries) == len(frame) == len(one_line)
    assert set(one_line) == set(Prediction.__struct_fields__)
    for entry, row in zip(ordered, frame.to_dict("records"), strict=True):
        for name in ("request_id", "index", "version", "predicted_label", *STATISTICS):
            assert getattr(entry, name) == row[name]
        assert {f"p_{name}": value for name, value in entry.probabilities.items()} == {
            name: value for name, value in row.items() if name[:2] == "p_" and not pd.isna(value)
        }
        assert abs(row["time"].timestamp() - entry.time) < 1e-4


@settings(deadline=None, max_examples=20)
@given(
    shape=st.tuples(*[st.integers(1, 5)] * 3), seed=st.integers(0, 99), label=st.text(min_size=1), key=KEYS
)
def test_images_and_feedback_round_trip(
    shape: tuple[int, int, int],
    seed: int,
    label: str,
    key: tuple[str, int, float],
    tmp_path_factory: pytest.TempPathFactory,
):
    """Pixels are exact; the image of feedback replaces a sampled one; an image of another size is invalid."""
    folder = tmp_path_factory.mktemp("log")
    image = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    sampled = LoggedImage(*key, shape, bytes(image.size))
    (folder / "images-1-1.jsonl").write_bytes(msgspec.json.encode(sampled) + b"\n")
    log = PredictionLog(folder, ServeConfig(), 1, lambda count: pytest.fail(f"{count} dropped"))
    log.log_feedback(Feedback(*key, shape, image.tobytes(), label=label))
    log.close()

    (feedback,) = reader.load_feedback(folder)
    assert (label, *key) == (feedback.label, feedback.request_id, feedback.index, feedback.time)
    (loaded,) = reader.load_images(folder).values()
    assert np.array_equal(image, loaded)
    with pytest.raises(ValueError, match="reshape"):
        LoggedImage(*key, shape, bytes(image.size + 1))


def test_entries_have_the_statistics_of_the_drift_tests():
    """Their order is that of `STATISTICS`, since entries are built by position."""
    assert Prediction.__struct_fields__[-len(STATISTICS) :] == STATISTICS
