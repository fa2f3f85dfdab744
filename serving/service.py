"""The BentoML service: start-up, background tasks and shutdown of a worker."""

import asyncio
import atexit
import gc
import os
import shutil
import signal
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import bentoml
import numpy as np
import psutil
from bentoml.validators import DType

from relearn.model.errors import CorruptDataError
from relearn.serving.config import (
    METRICS_DIR,
    MODEL_CORRUPT_MESSAGE,
    PARENT_PID,
    PREDICTION_LOG_DIR,
    RELEASES_DIR,
    SERVER_PID,
    SHARED_MEMORY,
    ServeConfig,
)
from relearn.serving.http.patches import apply_patches
from relearn.serving.logger import logger

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from relearn.serving.api.app import PredictionApp
    from relearn.serving.runtime.hot_reload import ModelReloader, ServedModel


class ApiMiddleware:
    """ASGI middleware in front of BentoML's router: `http_app` answers every HTTP request.

    Reasons: one form of all errors, no routes besides those in `/openapi.json`, and speed; a mounted
    Starlette application would take up to a third more CPU time for a request.
    """

    api: ClassVar["PredictionApp"]
    http_app: ClassVar["ASGIApp"]  # `RequestGuard` and, if other origins may ask, CORS in front of it

    def __init__(self, app: "ASGIApp") -> None:
        self.app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass an HTTP request to `http_app`, everything else to BentoML's application."""
        if scope["type"] == "lifespan":
            # Requests now arrive here directly. BentoML's middleware took a tenth of their time: it starts a
            # second timeout for each request, in a separate task, with a timer that outlives the request.
            scope["app"].middleware_stack = self
        await (ApiMiddleware.http_app if scope["type"] == "http" else self.app)(scope, receive, send)


@bentoml.service(
    name="Relearn",
    # BentoML's metrics, access log and tracing halved the throughput; our routes have their own metrics.
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
    envs=[{"name": "BENTOML_DO_NOT_TRACK", "value": "True"}],
)
class Relearn:
    """The BentoML service; each worker process has one instance."""

    def __init__(self) -> None:
        # Imported here: BentoML also imports this module to build and to supervise, which needs no torch.
        if os.environ.get(METRICS_DIR):
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = os.environ[METRICS_DIR]
        from relearn.model.devices import set_num_threads
        from relearn.serving.api.app import PredictionApp
        from relearn.serving.api.guard import RequestGuard
        from relearn.serving.http.api_keys import ApiKeys
        from relearn.serving.http.hosts import AllowOriginMiddleware
        from relearn.serving.runtime.worker_status import WorkerStatusDir

        set_num_threads(1)  # one image is too little work to split; concurrent requests use the other cores
        worker_index = bentoml.server_context.worker_index or 1
        config = ServeConfig.from_environment(os.environ)
        api_keys = ApiKeys.from_config(config, os.environ)
        prediction_log_folder = (
            Path(os.environ[PREDICTION_LOG_DIR]) if os.environ.get(PREDICTION_LOG_DIR) else None
        )
        api = PredictionApp(
            config,
            WorkerStatusDir.from_environment(os.environ),
            api_keys,
            worker_index,
            load_bundled_model(),
            get_bentoml_schemas,
            prediction_log_folder,
        )
        self.reloader = make_reloader(api)
        if self.reloader:
            self.reloader.load_initial()
        api.publish_status(self.reloader.load_error if self.reloader else None)
        ApiMiddleware.api, ApiMiddleware.http_app = api, RequestGuard(api)
        if config.allow_origin:
            ApiMiddleware.http_app = AllowOriginMiddleware(ApiMiddleware.http_app, config.allow_origin)

    # BentoML's clients find this method in /schema.json and send their requests to /predict, a route of
    # `ApiMiddleware`. A call without HTTP runs this method and returns the same.
    @bentoml.api(route="/predict")  # type: ignore[untyped-decorator]
    def predict_images(self, images: Annotated[np.ndarray, DType("uint8")]) -> dict[str, Any]:
        """Predict one image or several, integers 0–255: a label and all probabilities for each."""
        return ApiMiddleware.api.predict_images(images)

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    def set_worker_environment() -> None:  # BentoML calls it without an instance
        """Set the variables that the workers will inherit: server process, status folder, metrics folder."""
        from relearn.serving.runtime.worker_status import WorkerStatusDir

        os.environ[SERVER_PID] = str(os.getpid())
        WorkerStatusDir.from_environment(os.environ)
        with suppress(OSError):  # missing or read-only: the workers then share a folder on disk
            os.environ[METRICS_DIR] = make_metrics_dir()

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def start_background_tasks(self) -> None:
        """Start the tasks of this worker: follow releases, exit with the server, tune garbage collection."""
        coroutines = [freeze_gc(), exit_with_parent(), *([self.reloader.watch()] if self.reloader else [])]
        self.background_tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def flush_prediction_log(self) -> None:
        """Write the pending entries of the prediction log to disk."""
        if ApiMiddleware.api.prediction_log:
            ApiMiddleware.api.prediction_log.close()


def make_metrics_dir() -> str:
    """Create the folder in memory in which the workers share their counts; it is deleted at exit.

    Also deletes the folders of killed servers.
    """
    for stale_folder in SHARED_MEMORY.glob("relearn-*-*"):
        with suppress(ValueError):
            if not psutil.pid_exists(int(stale_folder.name.split("-")[1])):
                shutil.rmtree(stale_folder, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=f"relearn-{os.getpid()}-", dir=SHARED_MEMORY)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def get_bentoml_schemas() -> dict[str, Any]:
    """Return BentoML's own descriptions of this service, by the paths where its clients read them."""
    service: Any = Relearn
    return {"/schema.json": service.schema(), "/docs.json": service.openapi_spec.asdict()}


def load_bundled_model() -> "ServedModel | CorruptDataError | None":
    """Load the classifier bundled in the Bento, or return why it is corrupt; None without a bundled one.

    Its digests are those that the ledger names, if the server follows one that knows the version.
    """
    from relearn.serving.releases.store import ReleaseStore
    from relearn.serving.runtime.hot_reload import load_served_model

    bento = Relearn.bento  # type: ignore[attr-defined]  # the decorator made it a Service
    if bento is None or not bento.info.all_models:
        return None
    folder, version = Path(bentoml.models.get(bento.info.all_models[0].tag).path), str(bento.tag.version)
    root = os.environ.get(RELEASES_DIR)
    try:
        release = ReleaseStore(Path(root)).find_release(version) if root else None
        return load_served_model(folder, version, release.sha256 if release else None)
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # a network's code may raise anything
        logger.error("%s%s%s", bento.tag, MODEL_CORRUPT_MESSAGE, error)
        return error if isinstance(error, CorruptDataError) else CorruptDataError(repr(error))


def make_reloader(api: "PredictionApp") -> "ModelReloader | None":
    """Create the reloader that keeps `api` on the current release; None without a releases folder."""
    from relearn.serving.releases.store import ReleaseStore
    from relearn.serving.runtime.hot_reload import ModelReloader

    root = os.environ.get(RELEASES_DIR)
    if not root:
        return None
    reloader = ModelReloader(
        ReleaseStore(Path(root)), api.set_model, lambda: api.publish_status(reloader.load_error)
    )
    return reloader


async def freeze_gc() -> None:
    """Exclude the objects of start-up from garbage collection, two seconds after the start.

    A full collection over them takes about 100 ms, which would be the 99th percentile of the latency. A
    freeze in `__init__` would miss the objects that the server creates later.
    """
    await asyncio.sleep(2)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


async def exit_with_parent() -> None:
    """Stop this worker after its server was killed, and the server after its parent was killed.

    Workers hold the port open: an orphaned worker would occupy it forever.
    """
    server_pid, parent_pid = (
        int(os.environ.get(SERVER_PID) or os.getppid()),
        int(os.environ.get(PARENT_PID) or 0),
    )
    while True:
        await asyncio.sleep(1)
        if os.getppid() != server_pid:
            os.kill(os.getpid(), signal.SIGTERM)
        elif parent_pid and not psutil.pid_exists(parent_pid):
            os.kill(server_pid, signal.SIGTERM)


Relearn.add_asgi_middleware(ApiMiddleware)  # type: ignore[attr-defined]
apply_patches()
