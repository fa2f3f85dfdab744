"""The routes: what they answer, and how a refusal becomes an answer."""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import msgspec
import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from model.errors import IntegrityError, RelearnError
from serving import guard
from serving.board import Board
from serving.guard import Refusal
from serving.inputs import READERS, Accepted
from serving.live import Live
from serving.metrics import Metrics
from serving.openapi import describe
from serving.settings import UNSOUND, ServeConfig
from serving.together import Together

logger = logging.getLogger("bentoml.relearn")  # BentoML's server prints what is logged under its name

Route = Callable[[Request, str], Awaitable[Response]]

# A body of this size holds a few images of 28 × 28 at most: read and predicted within 1 ms, less than a
# thread takes to pick it up. Everything larger, and every picture, leaves the event loop free.
QUICK = 8_192


class Api:
    """The ASGI application of one worker, which is number `worker` of those that share `board`.

    `live` is what it serves: None before the first release, and what is wrong with it where it is not sound.
    """

    def __init__(
        self, config: ServeConfig, board: Board, worker: int = 1, live: Live | IntegrityError | None = None
    ) -> None:
        self.config = config
        self.board = board
        self.worker = worker
        self.live = live if isinstance(live, Live) else None
        self.unsound = isinstance(live, IntegrityError)
        self.since = datetime.now(UTC)
        self.metrics = Metrics()
        self.together = Together()
        self.routes: dict[str, dict[str, Route]] = {
            "/predict": {"POST": self.predict},
            "/livez": {"GET": self.livez},
            "/readyz": {"GET": self.readyz},
            "/info": {"GET": self.info},
            "/metrics": {"GET": self.page},
            "/openapi.json": {"GET": self.openapi},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request, whatever happens."""
        started = time.perf_counter()
        request = Request(scope, receive)
        identity = guard.request_id(request)
        try:
            async with asyncio.timeout(self.config.timeout):
                response = await self._route(request)(request, identity)
        except ClientDisconnect:
            return
        except TimeoutError:
            late = Refusal(504, "timeout", f"not answered within {self.config.timeout:g} seconds")
            response = guard.envelope(late, identity)
        except RelearnError as error:
            response = guard.envelope(error, identity)
        except Exception:
            logger.exception("request %s failed", identity)
            response = guard.envelope(RelearnError("unforeseen", "internal_error"), identity)
        response.headers[guard.REQUEST_ID] = identity
        route = scope["path"] if scope["path"] in self.routes else "other"
        self.metrics.answered(route, response.status_code, time.perf_counter() - started)
        await response(scope, receive, send)

    def _route(self, request: Request) -> Route:
        """The route for the exact path and method: nothing is guessed from the end of a path."""
        methods = self.routes.get(request.scope["path"])
        if methods is None:
            raise Refusal(404, "not_found", f"path: accepted: {', '.join(self.routes)}")
        route = methods.get("GET" if request.method == "HEAD" else request.method)
        if route is None:
            allowed = ", ".join([*methods, "HEAD"] if "GET" in methods else methods)
            raise Refusal(405, "method_not_allowed", f"method: accepted: {allowed}", {"allow": allowed})
        return route

    def swap(self, live: Live) -> None:
        """Serve `live` from the next request on."""
        self.live, self.unsound, self.since = live, False, datetime.now(UTC)

    def tell(self, refused: tuple[str, str] | None = None) -> None:
        """Let the other workers know what this one serves, and which version it could not take, and why."""
        version = self.live.version if self.live else None
        self.metrics.serving(version, refused[0] if refused else None)
        self.board.write(
            self.worker,
            {
                "worker": self.worker,
                "pid": os.getpid(),
                "version": version,
                "since": self.since.isoformat(timespec="milliseconds"),
                "refused": {"version": refused[0], "reason": refused[1]} if refused else None,
            },
        )

    def _released(self) -> Live:
        if self.unsound:
            raise Refusal(503, UNSOUND, "the released classifier is not what was saved, the log says more")
        if self.live is None:
            raise Refusal(503, "no_release", "no classifier has been released yet")
        return self.live

    async def predict(self, request: Request, identity: str) -> Response:
        """Images in, for each of them a label and the probability of every class."""
        live = self._released()
        media_type = guard.media_type(request, READERS, ", ".join(READERS))
        body = await guard.body(request, self.config.max_body_bytes)
        if media_type == "application/json" and len(body) <= QUICK:
            images = self._images(live, media_type, body)
            probabilities = await self.together.predict(live.classifier, images)
            labels, content = self._told(live, probabilities, identity)
        else:
            labels, content = await asyncio.to_thread(self._predict, live, media_type, body, identity)
        self.metrics.predicted(live.version, labels)
        return Response(content, media_type="application/json")

    def _predict(self, live: Live, media_type: str, body: bytes, identity: str) -> tuple[list[str], bytes]:
        images = self._images(live, media_type, body)
        return self._told(live, live.classifier.predict(images), identity)

    def _images(self, live: Live, media_type: str, body: bytes) -> np.ndarray:
        card = live.classifier.card
        return READERS[media_type](body, Accepted(card.shape, card.style, self.config.max_images))

    def _told(self, live: Live, probabilities: np.ndarray, identity: str) -> tuple[list[str], bytes]:
        """The label of each image, and the answer."""
        labels = live.classifier.labels(probabilities)
        return labels, msgspec.json.encode(
            {
                "version": live.version,
                "worker": self.worker,
                "request_id": identity,
                "predictions": predictions(labels, live.classifier.card.classes, probabilities),
            }
        )

    async def livez(self, _request: Request, _identity: str) -> Response:
        """The process answers."""
        return PlainTextResponse("alive\n")

    async def readyz(self, _request: Request, _identity: str) -> Response:
        """Predictions are answered."""
        self._released()
        return PlainTextResponse("ready\n")

    async def info(self, _request: Request, _identity: str) -> Response:
        """What every worker serves, and which release it could not take."""
        workers = await asyncio.to_thread(self.board.read)
        version = self.live.version if self.live else None
        about = {"worker": self.worker, "version": version, "workers": workers}
        return Response(msgspec.json.encode(about), media_type="application/json")

    async def page(self, _request: Request, _identity: str) -> Response:
        """The counters of all workers."""
        return await asyncio.to_thread(self.metrics.page)

    async def openapi(self, _request: Request, _identity: str) -> Response:
        """This API in the words of OpenAPI."""
        card = self.live.classifier.card if self.live else None
        return Response(msgspec.json.encode(describe(self.config, card)), media_type="application/json")


def predictions(
    labels: list[str], classes: tuple[str, ...], probabilities: np.ndarray
) -> list[dict[str, str | dict[str, float]]]:
    """For each row of `probabilities`, float32 (n, classes), its label and its numbers by class name."""
    return [
        {"label": label, "probabilities": dict(zip(classes, row, strict=True))}
        for label, row in zip(labels, probabilities.astype(np.float64).round(8).tolist(), strict=True)
    ]
