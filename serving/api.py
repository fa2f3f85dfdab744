"""The routes: what they answer, and how a refusal becomes an answer."""

import asyncio
import base64
import logging
import os
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from model.errors import IntegrityError, RelearnError
from model.images import png
from serving import feedback, guard
from serving.board import Board
from serving.draw import FILES, Page
from serving.guard import Refusal
from serving.inputs import READERS, Accepted
from serving.live import Live
from serving.metrics import Metrics
from serving.openapi import describe
from serving.query import flag
from serving.records import Records
from serving.settings import UNSOUND, ServeConfig

logger = logging.getLogger("bentoml.relearn")  # BentoML's server prints what is logged under its name

Route = Callable[[Request, str], Awaitable[Response]]

# A body of this size holds a few images of 28 × 28 at most: read and predicted within 1 ms, less than a
# thread takes to pick it up. Everything larger, and every picture, leaves the event loop free.
QUICK = 8_192


class Api:
    """The ASGI application of one worker, which is number `worker` of those that share `board`.

    `live` is what it serves: None before the first release, and what is wrong with it where it is not sound.
    It records into the folder `records`, where there is one and the settings say so.
    """

    def __init__(
        self,
        config: ServeConfig,
        board: Board,
        worker: int = 1,
        live: Live | IntegrityError | None = None,
        records: Path | None = None,
    ) -> None:
        self.config = config
        self.board = board
        self.worker = worker
        self.live = live if isinstance(live, Live) else None
        self.unsound = isinstance(live, IntegrityError)
        self.since = datetime.now(UTC)
        self.metrics = Metrics()
        recorded = records if config.records else None
        self.records = Records(recorded, config, worker, self.metrics.lost.inc) if recorded else None
        self.page = Page()
        self.routes: dict[str, dict[str, Route]] = {
            "/predict": {"POST": self.predict},
            "/feedback": {"POST": self.feedback},
            "/livez": {"GET": self.livez},
            "/readyz": {"GET": self.readyz},
            "/info": {"GET": self.info},
            "/metrics": {"GET": self.counters},
            "/openapi.json": {"GET": self.openapi},
            "/": {"GET": self.root},
            **{path: {"GET": self.draw} for path in FILES},
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
        seen, record = flag(request, "seen", False), flag(request, "record", True)
        body = await guard.body(request, self.config.max_body_bytes)
        if media_type == "application/json" and len(body) <= QUICK:
            labels, content = self._predict(live, media_type, body, identity, seen, record)
        else:
            labels, content = await asyncio.to_thread(
                self._predict, live, media_type, body, identity, seen, record
            )
        self.metrics.predicted(live.version, labels)
        return Response(content, media_type="application/json")

    def _predict(
        self, live: Live, media_type: str, body: bytes, identity: str, seen: bool, record: bool
    ) -> tuple[list[str], bytes]:
        card = live.classifier.card
        images = READERS[media_type](body, Accepted(card.shape, card.style, self.config.max_images))
        probabilities = live.classifier.predict(images)
        if self.records and record:
            self.records.add(identity, live, images, probabilities)
        labels = live.classifier.labels(probabilities)
        answers = predictions(labels, card.classes, probabilities)
        if seen:
            for answer, image in zip(answers, images, strict=True):
                answer["seen"] = base64.b64encode(png(image)).decode()
        return labels, msgspec.json.encode(
            {
                "version": live.version,
                "worker": self.worker,
                "request_id": identity,
                "predictions": answers,
            }
        )

    async def feedback(self, request: Request, identity: str) -> Response:
        """What an image shows, told by somebody who knows: kept beside the record of its prediction."""
        card = self._released().classifier.card
        guard.media_type(request, ("application/json",), "application/json")
        body = await guard.body(request, self.config.max_body_bytes)
        told = await asyncio.to_thread(feedback.read, body, card)
        if self.records is None:
            raise Refusal(409, "records_off", "feedback: this server keeps no records")
        await asyncio.to_thread(self.records.told, told)
        kept = told.pixels is not None or self.records.keeps(told.request_id)
        answer = {
            "worker": self.worker,
            "request_id": identity,
            "image": "kept" if kept else "none",
            "note": feedback.KEPT if kept else feedback.NOT_KEPT,
        }
        return Response(msgspec.json.encode(answer), media_type="application/json")

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

    async def counters(self, _request: Request, _identity: str) -> Response:
        """The counters of all workers."""
        return await asyncio.to_thread(self.metrics.page)

    async def openapi(self, _request: Request, _identity: str) -> Response:
        """This API in the words of OpenAPI."""
        card = self.live.classifier.card if self.live else None
        return Response(msgspec.json.encode(describe(self.config, card)), media_type="application/json")

    async def root(self, _request: Request, _identity: str) -> Response:
        """Leads to the page."""
        return self.page.lead()

    async def draw(self, request: Request, _identity: str) -> Response:
        """The page, or one of its files."""
        return self.page.answer(request.scope["path"])


def predictions(
    labels: list[str], classes: tuple[str, ...], probabilities: np.ndarray
) -> list[dict[str, str | dict[str, float]]]:
    """For each row of `probabilities`, float32 (n, classes), its label and its numbers by class name."""
    return [
        {"label": label, "probabilities": dict(zip(classes, row, strict=True))}
        for label, row in zip(labels, probabilities.astype(np.float64).round(8).tolist(), strict=True)
    ]
