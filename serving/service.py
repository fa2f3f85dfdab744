"""The BentoML service: what a worker does when it starts, and which classifier is live."""

import asyncio
import atexit
import gc
import logging
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
import uvicorn.config
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

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from relearn.serving.api.app import PredictionApp
    from relearn.serving.runtime.hot_reload import ModelReloader, ServedModel

logger = logging.getLogger("bentoml.relearn")


class ApiMiddleware:
    """ASGI middleware before BentoML's own: every HTTP request is ours, the rest is passed on.

    So every refusal has our form, the path of a request is one look-up, and nothing is served that is
    not told in `/openapi.json`.
    """

    api: ClassVar["PredictionApp"]

    def __init__(self, app: "ASGIApp") -> None:
        self.app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer by `api`, which stands before the first request can come; there are no websockets."""
        if scope["type"] == "lifespan":
            # From now on requests come here at once. What BentoML has put before us took a tenth of their
            # time: it starts a second deadline for each, in a task of its own, with a timer that outlives it.
            scope["app"].middleware_stack = self
        await (self.api if scope["type"] == "http" else self.app)(scope, receive, send)


@bentoml.service(
    name="Relearn",
    # What these do for a request, our routes do for less: together they took half of the throughput.
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
    envs=[{"name": "BENTOML_DO_NOT_TRACK", "value": "True"}],
)
class Relearn:
    """One worker."""

    def __init__(self) -> None:
        # Here, not above: BentoML imports this module to build and to supervise, which needs no torch.
        if os.environ.get(METRICS_DIR):
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = os.environ[METRICS_DIR]
        from relearn.model.devices import set_num_threads
        from relearn.serving.api.app import PredictionApp
        from relearn.serving.http.api_keys import ApiKeys
        from relearn.serving.runtime.worker_status import WorkerStatusDir

        set_num_threads(1)  # one image leaves nothing to share; several requests share the cores as it is
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
        ApiMiddleware.api = api

    # BentoML's clients learn of it by /schema.json, and then send what /predict reads; there `Front` answers
    # them, strictly and at full speed. Without HTTP this is called, and gives the same.
    @bentoml.api(route="/predict")  # type: ignore[untyped-decorator]
    def predict_images(self, images: Annotated[np.ndarray, DType("uint8")]) -> dict[str, Any]:
        """Images, one or several, as whole numbers 0–255; for each a label and all probabilities."""
        return ApiMiddleware.api.predict_images(images)

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    def set_worker_environment() -> None:  # BentoML calls it without an instance
        """Once, before there are workers: let them know whose they are, and where they meet."""
        from relearn.serving.runtime.worker_status import WorkerStatusDir

        os.environ[SERVER_PID] = str(os.getpid())
        WorkerStatusDir.from_environment(os.environ)
        if SHARED_MEMORY.is_dir():
            os.environ[METRICS_DIR] = make_metrics_dir()

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def start_background_tasks(self) -> None:
        """Start what goes on beside the requests."""
        coroutines = [freeze_gc(), exit_with_parent(), *([self.reloader.watch()] if self.reloader else [])]
        self.background_tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def flush_prediction_log(self) -> None:
        """Write what is not yet on disk."""
        if ApiMiddleware.api.prediction_log:
            ApiMiddleware.api.prediction_log.close()


def make_metrics_dir() -> str:
    """A folder in memory, gone with this process; those of servers that were killed go now."""
    for stale_folder in SHARED_MEMORY.glob("relearn-*-*"):
        with suppress(ValueError):
            if not psutil.pid_exists(int(stale_folder.name.split("-")[1])):
                shutil.rmtree(stale_folder, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=f"relearn-{os.getpid()}-", dir=SHARED_MEMORY)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def get_bentoml_schemas() -> dict[str, Any]:
    """This service in BentoML's own words, by the paths where its clients look for them."""
    service: Any = Relearn
    return {"/schema.json": service.schema(), "/docs.json": service.openapi_spec.asdict()}


def load_bundled_model() -> "ServedModel | CorruptDataError | None":
    """The classifier that the Bento of this service carries, or what is wrong with it; None without one."""
    from relearn.model.inference.classifier import Classifier
    from relearn.serving.runtime.hot_reload import ServedModel

    bento = Relearn.bento  # type: ignore[attr-defined]  # the decorator made it a Service
    if bento is None or not bento.info.all_models:
        return None
    folder = Path(bentoml.models.get(bento.info.all_models[0].tag).path)
    try:
        return ServedModel.from_classifier(str(bento.tag.version), Classifier.load(folder))
    except CorruptDataError as error:
        logger.error("%s%s%s", bento.tag, MODEL_CORRUPT_MESSAGE, error)
        return error


def make_reloader(api: "PredictionApp") -> "ModelReloader | None":
    """Who keeps `api` at what is live; None for a server that was given no releases to follow."""
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
    """Put what start-up has left out of the garbage collector's sight, once it has all been made.

    A full collection over it takes about 100 ms, which is the 99th percentile of an answer without this;
    done in `__init__`, it misses what the server makes after that.
    """
    await asyncio.sleep(2)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


async def exit_with_parent() -> None:
    """End this worker when its server was killed, and its server when their owner was.

    Workers hold the port open: one that nobody restarts or stops would keep it for ever.
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
# What a worker's uvicorn speaks. BentoML has no setting for it, and leaves no moment but this one: between
# the import of this module and uvicorn's start it calls nothing of ours.
uvicorn.config.HTTP_PROTOCOLS["auto"] = "relearn.serving.http.protocol:BoundedHttpProtocol"
