"""Networks of the user's own: no answer that is wrong, a worker that lives, recovery by the next release."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from relearn.model.config import TrainConfig
from relearn.model.errors import CorruptDataError
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.model.networks.registry import build_network
from relearn.serving.api.app import PredictionApp
from relearn.serving.api.guard import RequestGuard
from relearn.serving.config import ServeConfig
from relearn.serving.deployment.build_bento import build_bento
from relearn.serving.deployment.server import run_server, start_server
from relearn.serving.http.api_keys import ApiKeys
from relearn.serving.http.concurrency import THREAD_COUNT
from relearn.serving.releases.golden import Golden
from relearn.serving.releases.ledger import Release
from relearn.serving.releases.store import ReleaseStore
from relearn.serving.runtime.hot_reload import ServedModel
from relearn.serving.runtime.worker_status import WorkerStatusDir

CLASSES = 10
# torch says so once in a process: the pixels of a raw body are those that were received.
pytestmark = pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
Forward = Callable[[torch.Tensor], Any]

EXCEPTIONS: list[type[BaseException]] = [
    *(ValueError, MemoryError, RecursionError, StopIteration, AssertionError, OSError, TimeoutError),
    *(SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, BaseException),
]
NO_TENSORS = [None, [], "logits", 1.0, np.zeros((2, CLASSES)), {"logits": torch.zeros(2, CLASSES)}]
DTYPES = [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.complex64]
SHAPES = [(1, CLASSES), (3, CLASSES), (2, CLASSES - 1), (0, CLASSES)]
VALUES = st.sampled_from([0.0, -1.0, 3.0, 1e4, -1e4, 1e38, float("nan"), float("inf"), float("-inf")])


class Scripted(nn.Module):
    """A network with the given `forward`."""

    def __init__(self, script: Forward) -> None:
        super().__init__()
        self.script, self.layer = script, nn.Linear(1, 1)

    def forward(self, inputs: torch.Tensor) -> object:
        return self.script(inputs)


def fail_with(exception: type[BaseException]) -> Forward:
    def forward(_inputs: torch.Tensor) -> None:
        raise exception

    return forward


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Draw results for two images: often of the right shape and dtype, with any values."""
    rows, classes = draw(st.sampled_from([(2, CLASSES)] * 4 + SHAPES))
    values = torch.tensor(draw(st.lists(VALUES, min_size=rows * classes, max_size=rows * classes)))
    common_value = draw(st.one_of(st.none(), VALUES))  # else almost all tensors would have a NaN
    if common_value is not None:
        values[draw(st.integers(1, CLASSES)) :] = common_value
    tensor = values.reshape(rows, classes).to(draw(st.sampled_from([torch.float32] * 7 + DTYPES)))
    return draw(st.sampled_from([tensor, tensor, tensor, tensor[0] if rows else tensor, tensor[..., None]]))


def expected_probabilities(result: object, image_count: int = 2) -> np.ndarray | None:
    """Return the softmax of `result` in float64, None if it is not defined for so many images."""
    if not (
        isinstance(result, torch.Tensor)
        and result.is_floating_point()
        and result.shape == (image_count, CLASSES)
    ):
        return None
    logits = result.float().double().numpy()
    highest = logits.max(1, keepdims=True)
    if not np.isfinite(highest).all():  # a NaN or infinity in the row, or -infinity for every class
        return None
    exponentials = np.exp(logits - highest)
    return np.asarray(exponentials / exponentials.sum(1, keepdims=True))


FORWARDS = st.one_of(
    tensors().map(lambda tensor: (lambda _: tensor, tensor)),
    st.sampled_from(NO_TENSORS).map(lambda result: (lambda _: result, result)),
    st.sampled_from(EXCEPTIONS).map(lambda exception: (fail_with(exception), None)),
)


def serve_script(classifier: Classifier, script: Forward, version: str = "3") -> ServedModel:
    config = TrainConfig(network="nets:Scripted")
    return ServedModel.from_classifier(
        version, Classifier(Scripted(script), classifier.card.model_copy(update={"config": config}))
    )


def make_app(folder: Path, **settings: float) -> PredictionApp:
    """Create an application of one worker."""
    return PredictionApp(ServeConfig.model_validate(settings), WorkerStatusDir(folder), ApiKeys([]))


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> PredictionApp:
    """An application whose requests do not time out, even on a busy machine."""
    return make_app(tmp_path_factory.mktemp("status"), timeout_seconds=30)


@pytest.fixture(scope="module")
def hasty_app(tmp_path_factory: pytest.TempPathFactory) -> PredictionApp:
    """An application whose requests time out after half a second."""
    return make_app(tmp_path_factory.mktemp("status"), timeout_seconds=0.5)


def request(app: PredictionApp, *paths: str) -> list[tuple[httpx.Response, float]]:
    """Request `paths` at once; return responses and seconds."""

    async def run() -> list[tuple[httpx.Response, float]]:
        # An exception that leaves the application is raised here.
        transport = httpx.ASGITransport(RequestGuard(app))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:

            async def send(path: str) -> tuple[httpx.Response, float]:
                start = time.perf_counter()
                if path == "/predict":
                    headers = {"content-type": "application/octet-stream"}
                    response = await client.post(path, content=bytes([0, 255]) * 784, headers=headers)
                else:
                    response = await client.get(path)
                return response, time.perf_counter() - start

            responses = await asyncio.gather(*map(send, paths))
        while app.limiter.free_threads < THREAD_COUNT:  # a thread reports its end to the loop of its request
            await asyncio.sleep(0.01)
        return responses

    return asyncio.run(run())


@settings(max_examples=150, deadline=None)
@given(case=FORWARDS)
def test_only_probabilities_are_sent(
    app: PredictionApp, classifier: Classifier, case: tuple[Forward, object]
) -> None:
    """A network that returns or raises anything gives its softmax, or 500; the next release works."""
    script, result = case
    expected, expected_of_blank = (expected_probabilities(result, count) for count in (2, 1))
    app.set_model(serve_script(classifier, script))
    (response, _), (ready, _) = request(app, "/predict")[0], request(app, "/readyz")[0]

    if expected is None:
        error = response.json()["error"]
        assert (500, "invalid_model_output") == (response.status_code, error["code"])
        assert error["message"].startswith("network nets:Scripted r")
    else:
        rows = [list(row["probabilities"].values()) for row in response.json()["predictions"]]
        np.testing.assert_allclose(rows, expected, atol=1e-6)
    if expected_of_blank is None:  # the check of readiness is about one image
        assert (503, "invalid_model_output") == (ready.status_code, ready.json()["error"]["code"])
    else:
        assert 200 == ready.status_code

    app.set_model(ServedModel.from_classifier("4", classifier))
    assert [200, 200] == [answer.status_code for answer, _ in request(app, "/predict", "/readyz")]
    metrics = app.metrics.render().body.decode()
    assert not any(line.endswith(("NaN", "Inf")) for line in metrics.splitlines() if line[:1] != "#")


def test_network_that_sleeps_blocks_nobody_else(hasty_app: PredictionApp, classifier: Classifier) -> None:
    """`/livez` answers at once, its client gets 504 after the timeout, and the next release works."""
    hasty_app.set_model(serve_script(classifier, lambda _: time.sleep(1.5)))
    (slow, slow_seconds), (live, live_seconds) = request(hasty_app, "/predict", "/livez")
    assert (504, 200) == (slow.status_code, live.status_code)
    assert live_seconds < 0.4 < slow_seconds < 1.2

    hasty_app.set_model(ServedModel.from_classifier("4", classifier))
    assert 200 == request(hasty_app, "/predict")[0][0].status_code


SOURCE = """
import asyncio, os, time
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.classes, self.layer = classes, nn.Linear(shape[0] * shape[1] * shape[2], classes)

    def forward(self, inputs):
        code = round(float(inputs.flatten(1)[0, 0]) * 255)
        if "RELEARN_SERVER_PID" in os.environ and {only_in_server}:
            return torch.full((len(inputs), self.classes), torch.nan)
        if code == 1:
            raise SystemExit(3)
        if code == 2:
            raise KeyboardInterrupt
        if code == 3:
            raise asyncio.CancelledError
        if code == 4:
            return torch.full((len(inputs), self.classes), torch.nan)
        if code == 5:
            return self.layer(inputs.flatten(1))[1:]
        if code == 6:
            time.sleep(4)
        return self.layer(inputs.flatten(1))
"""


def save_custom(
    classifier: Classifier, folder: Path, monkeypatch: pytest.MonkeyPatch, *, only_in_server: bool
) -> Path:
    """Save a network with faults by the first pixel, or one that gives NaN in a server only."""
    module_name = f"nets_{only_in_server}".lower()
    folder.mkdir()
    (folder / f"{module_name}.py").write_text(SOURCE.replace("{only_in_server}", str(only_in_server)))
    monkeypatch.chdir(folder)
    config = TrainConfig(network=f"{module_name}:Net")
    network = build_network(config, classifier.card.shape, CLASSES)
    custom = Classifier(network, classifier.card.model_copy(update={"config": config}))
    custom.save(folder / "saved")
    Golden.from_classifier(custom, np.zeros((2, *classifier.card.shape), np.uint8)).save(folder / "saved")
    return folder / "saved"


@pytest.mark.slow
def test_server_survives_a_network_with_faults(
    classifier: Classifier,
    saved: Path,
    publish: Callable[..., Release],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A real server answers each fault with 500, a slow pass with 504, and serves the next release."""
    home = Home(tmp_path / "home", tmp_path / "data")
    releases = ReleaseStore(home.releases_dir("digits"))
    folder = save_custom(classifier, tmp_path / "custom", monkeypatch, only_in_server=False)
    publish(releases, "1", folder)
    bento = build_bento(folder, "digits", "1", home)
    server = start_server(bento, ServeConfig(port=0, timeout_seconds=2), home, model_name="digits")
    try:
        server.wait_until_ok("/readyz")
        with httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client:

            def predict(code: int) -> httpx.Response:
                content = bytes([code, *bytes(782), 255])
                return client.post(
                    "/predict", content=content, headers={"content-type": "application/octet-stream"}
                )

            pid = client.get("/info").json()["workers"][0]["pid"]
            for code in (1, 2, 3, 4, 5):
                answer = predict(code)
                assert (500, "invalid_model_output") == (answer.status_code, answer.json()["error"]["code"])
                assert 200 == predict(0).status_code
            assert 504 == predict(6).status_code
            start = time.perf_counter()
            assert 200 == client.get("/livez").status_code
            assert time.perf_counter() - start < 1
            publish(releases, "2", saved)
            deadline = time.monotonic() + 20
            while client.get("/info").json()["version"] != "2":
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert 200 == predict(6).status_code
            assert pid == client.get("/info").json()["workers"][0]["pid"]
    finally:
        server.stop()


@pytest.mark.slow
def test_fault_that_only_a_server_has_is_named_at_once(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start of a Bento whose network returns NaN there fails as soon as the server answers."""
    home = Home(tmp_path / "home", tmp_path / "data")
    folder = save_custom(classifier, tmp_path / "custom", monkeypatch, only_in_server=True)
    bento = build_bento(folder, "digits", "1", home)
    with (
        pytest.raises(CorruptDataError, match="nets_true:Net returned NaN"),
        run_server(bento, ServeConfig(port=0), home),
    ):
        pass
