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

from relearn.model.errors import IntegrityError
from relearn.serving.settings import COUNTS, MEMORY, OWNER, RECORDS, RELEASES, SERVER, UNSERVED, ServeConfig

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from relearn.serving.api import Api
    from relearn.serving.live import Follower, Live

logger = logging.getLogger("bentoml.relearn")


class Front:
    """ASGI middleware before BentoML's own: every HTTP request is ours, the rest is passed on.

    So every refusal has our form, the path of a request is one look-up, and nothing is served that is
    not told in `/openapi.json`.
    """

    api: ClassVar["Api"]

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
        if os.environ.get(COUNTS):
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = os.environ[COUNTS]
        from relearn.model.devices import use_threads
        from relearn.serving.api import Api
        from relearn.serving.board import Board
        from relearn.serving.keys import Keys

        use_threads(1)  # one image leaves nothing to share; several requests share the cores as it is
        worker = bentoml.server_context.worker_index or 1
        config = ServeConfig.from_environment(os.environ)
        keys = Keys.of(config, os.environ)
        records = Path(os.environ[RECORDS]) if os.environ.get(RECORDS) else None
        api = Api(config, Board.named(os.environ), keys, worker, carried(), described, records)
        self.follower = follower(api)
        if self.follower:
            self.follower.begin()
        api.tell(self.follower.refused if self.follower else None)
        Front.api = api

    # BentoML's clients learn of it by /schema.json, and then send what /predict reads; there `Front` answers
    # them, strictly and at full speed. Without HTTP this is called, and gives the same.
    @bentoml.api(route="/predict")  # type: ignore[untyped-decorator]
    def predict_images(self, images: Annotated[np.ndarray, DType("uint8")]) -> dict[str, Any]:
        """Images, one or several, as whole numbers 0–255; for each a label and all probabilities."""
        return Front.api.predict_images(images)

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    def name_the_server() -> None:  # BentoML calls it without an instance
        """Once, before there are workers: let them know whose they are, and where they meet."""
        from relearn.serving.board import Board

        os.environ[SERVER] = str(os.getpid())
        Board.named(os.environ)
        if MEMORY.is_dir():
            os.environ[COUNTS] = counts()

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def settle(self) -> None:
        """Start what goes on beside the requests."""
        tasks = [freeze(), leave_with_owner(), *([self.follower.follow()] if self.follower else [])]
        self.beside = [asyncio.create_task(task) for task in tasks]

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def finish(self) -> None:
        """Write what is not yet on disk."""
        if Front.api.records:
            Front.api.records.close()


def counts() -> str:
    """A folder in memory, gone with this process; those of servers that were killed go now."""
    for left in MEMORY.glob("relearn-*-*"):
        with suppress(ValueError):
            if not psutil.pid_exists(int(left.name.split("-")[1])):
                shutil.rmtree(left, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=f"relearn-{os.getpid()}-", dir=MEMORY)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def described() -> dict[str, Any]:
    """This service in BentoML's own words, by the paths where its clients look for them."""
    service: Any = Relearn
    return {"/schema.json": service.schema(), "/docs.json": service.openapi_spec.asdict()}


def carried() -> "Live | IntegrityError | None":
    """The classifier that the Bento of this service carries, or what is wrong with it; None without one."""
    from relearn.model.classifier import Classifier
    from relearn.serving.live import Live

    bento = Relearn.bento  # type: ignore[attr-defined]  # the decorator made it a Service
    if bento is None or not bento.info.all_models:
        return None
    folder = Path(bentoml.models.get(bento.info.all_models[0].tag).path)
    try:
        return Live.of(str(bento.tag.version), Classifier.load(folder))
    except IntegrityError as error:
        logger.error("%s%s%s", bento.tag, UNSERVED, error)
        return error


def follower(api: "Api") -> "Follower | None":
    """Who keeps `api` at what is live; None for a server that was given no releases to follow."""
    from relearn.serving.live import Follower
    from relearn.serving.releases import Releases

    root = os.environ.get(RELEASES)
    if not root:
        return None
    one = Follower(Releases(Path(root)), api.swap, lambda: api.tell(one.refused))
    return one


async def freeze() -> None:
    """Put what start-up has left out of the garbage collector's sight, once it has all been made.

    A full collection over it takes about 100 ms, which is the 99th percentile of an answer without this;
    done in `__init__`, it misses what the server makes after that.
    """
    await asyncio.sleep(2)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


async def leave_with_owner() -> None:
    """End this worker when its server was killed, and its server when their owner was.

    Workers hold the port open: one that nobody restarts or stops would keep it for ever.
    """
    server, owner = int(os.environ.get(SERVER) or os.getppid()), int(os.environ.get(OWNER) or 0)
    while True:
        await asyncio.sleep(1)
        if os.getppid() != server:
            os.kill(os.getpid(), signal.SIGTERM)
        elif owner and not psutil.pid_exists(owner):
            os.kill(server, signal.SIGTERM)


Relearn.add_asgi_middleware(Front)  # type: ignore[attr-defined]
# What a worker's uvicorn speaks. BentoML has no setting for it, and leaves no moment but this one: between
# the import of this module and uvicorn's start it calls nothing of ours.
uvicorn.config.HTTP_PROTOCOLS["auto"] = "relearn.serving.protocol:Protocol"
