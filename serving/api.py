"""The routes: what they answer, and how a refusal becomes an answer."""

import asyncio
import logging
import os
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from relearn.model.errors import IntegrityError, RelearnError
from relearn.serving import feedback, guard, hosts, info, inputs, query
from relearn.serving.accepted import Accepted
from relearn.serving.board import Board
from relearn.serving.draw import FILES, Page
from relearn.serving.guard import MediaType, Refusal
from relearn.serving.keys import Keys
from relearn.serving.live import Live
from relearn.serving.metrics import Metrics
from relearn.serving.openapi import describe
from relearn.serving.query import Query
from relearn.serving.records import Records
from relearn.serving.replies import predictions
from relearn.serving.settings import UNSOUND, VERSION, ServeConfig
from relearn.serving.together import Together
from relearn.serving.work import Work

logger = logging.getLogger("bentoml.relearn")  # BentoML's server prints what is logged under its name

Route = Callable[[Request, str], Awaitable[Response]]

# A body of this size holds a few images of 28 × 28 at most: read and predicted within 1 ms, less than a
# thread takes to pick it up. Everything larger, and every picture, leaves the event loop free.
QUICK = 8_192

HEALTH = ("/livez", "/readyz", "/healthz")
UNLIMITED = (*HEALTH, "/metrics")  # answered however much there is to do, which nobody would see otherwise
OPEN = (*HEALTH, "/", *FILES)  # to everybody, keys or not: the page asks for one
PARAMETERS = {"/predict": query.PARAMETERS}


class Api:
    """The ASGI application of one worker, which is number `worker` of those that share `board`.

    `live` is what it serves: None before the first release, and what is wrong with it where it is not sound.
    It records into the folder `records`, where there is one and the settings say so.
    """

    def __init__(
        self,
        config: ServeConfig,
        board: Board,
        keys: Keys,
        worker: int = 1,
        live: Live | IntegrityError | None = None,
        described: Callable[[], dict[str, Any]] = dict,
        records: Path | None = None,
    ) -> None:
        self.config = config
        self.board = board
        self.worker = worker
        self.live = live if isinstance(live, Live) else None
        self.unsound = isinstance(live, IntegrityError)
        self.since = datetime.now(UTC)
        self.metrics = Metrics(records, config.workers)
        self.keys = keys
        self.described = described
        self.work = Work(config.max_in_progress, self.metrics.abandoned)
        recorded = records if config.records else None
        self.records = Records(recorded, config, worker, self.metrics.lost.inc) if recorded else None
        self.together = Together()
        self.page = Page(bool(keys))
        self.routes: dict[str, dict[str, Route]] = {
            "/predict": {"POST": self.predict},
            "/feedback": {"POST": self.feedback},
            "/livez": {"GET": self.livez},
            "/healthz": {"GET": self.livez},  # as BentoML's own servers call it
            "/readyz": {"GET": self.readyz},
            "/info": {"GET": self.info},
            "/metrics": {"GET": self.counters},
            "/openapi.json": {"GET": self.openapi},
            "/docs.json": {"GET": self.bentoml},
            "/schema.json": {"GET": self.bentoml},
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
                response = await self._answer(request, identity)
        except ClientDisconnect:
            return
        except asyncio.CancelledError:  # the server stops, and its grace is over
            response = self._refuse(Refusal(503, "stopping", "server: it is being stopped"), identity)
        except TimeoutError:
            late = f"not answered within {self.config.timeout:g} seconds"
            response = self._refuse(Refusal(504, "timeout", late, {"connection": "close"}), identity)
        except RelearnError as error:
            response = self._refuse(error, identity)
        except Exception:
            logger.exception("request %s failed", identity)
            response = self._refuse(RelearnError("unforeseen", "internal_error"), identity)
        response.headers.update({guard.REQUEST_ID: identity, **guard.ALWAYS})
        route = scope["path"] if scope["path"] in self.routes else "other"
        self.metrics.answered(route, response.status_code, time.perf_counter() - started)
        if response.status_code < 400 or "connection" in response.headers or guard.is_over(request):
            await response(scope, receive, send)
        else:
            await guard.part(request, response, send, self.config.max_body_bytes)

    def _refuse(self, error: RelearnError, identity: str) -> Response:
        self.metrics.refusals.labels(error.code).inc()
        return guard.envelope(error, identity)

    async def _answer(self, request: Request, identity: str) -> Response:
        path = request.scope["path"]
        if not self.keys:
            hosts.check(request)
        elif path not in OPEN:
            self.keys.check(request)
        route = self._route(request)
        guard.check_query(request, PARAMETERS.get(path, ()))
        if path in UNLIMITED:
            return await route(request, identity)
        with self.work.admitted():
            return await route(request, identity)

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
        if self.live and self.live.version != live.version:
            self.metrics.swaps.inc()
        self.live, self.unsound, self.since = live, False, datetime.now(UTC)

    def tell(self, refused: tuple[str, str] | None = None) -> None:
        """Let the other workers know what this one serves, and which version it could not take, and why."""
        version = self.live.version if self.live else None
        self.metrics.serving(version, refused[0] if refused else None)
        told = {
            "worker": self.worker,
            "pid": os.getpid(),
            "version": version,
            "since": self.since.isoformat(timespec="milliseconds"),
            "refused": {"version": refused[0], "reason": refused[1]} if refused else None,
        }
        try:
            self.board.write(self.worker, told)
        except OSError as error:
            logger.error("what is served cannot be told: %s", error)

    def _released(self) -> Live:
        if self.unsound:
            raise Refusal(503, UNSOUND, "the released classifier is not what was saved, the log says more")
        if self.live is None:
            raise Refusal(503, "no_release", "no classifier has been released yet")
        return self.live

    async def predict(self, request: Request, identity: str) -> Response:
        """Images in, for each of them a label and the probability of every class."""
        live = self._released()
        asked = Query.of(request, live.version, len(live.classifier.card.classes))
        media_type = guard.media_type(request, inputs.MEDIA_TYPES)
        body = await guard.body(request, self.config.max_body_bytes)
        if live.quick and len(body) <= QUICK and inputs.only_numbers(media_type, body):
            images = self._images(live, media_type, body)
            probabilities = await self.together.predict(live.classifier, images)
            content = self._reply(live, images, probabilities, identity, asked)
        else:
            content = await self.work.apart(self._predict, live, media_type, body, identity, asked)
        return Response(content, media_type="application/json")

    def predict_images(self, images: np.ndarray) -> dict[str, Any]:
        """What `/predict` answers to `images`, uint8 in any of the accepted forms, without HTTP."""
        live = self._released()
        images = images.reshape(-1, *live.classifier.card.shape)
        answer = self._reply(live, images, live.classifier.predict(images), uuid.uuid4().hex, Query())
        return msgspec.json.decode(answer, type=dict[str, Any])

    def _predict(self, live: Live, media_type: MediaType, body: bytes, identity: str, asked: Query) -> bytes:
        images = self._images(live, media_type, body)
        return self._reply(live, images, live.classifier.predict(images), identity, asked)

    def _images(self, live: Live, media_type: MediaType, body: bytes) -> np.ndarray:
        card = live.classifier.card
        return inputs.read(media_type, body, Accepted(card.shape, card.style, self.config.max_images))

    def _reply(
        self, live: Live, images: np.ndarray, probabilities: np.ndarray, identity: str, asked: Query
    ) -> bytes:
        """What is answered to `images` with `probabilities`, float32 (n, classes), recorded and counted."""
        if self.records and asked.record:
            self.records.add(identity, live, images, probabilities)
        card, labels = live.classifier.card, live.classifier.labels(probabilities)
        self.metrics.predicted(live.version, labels, probabilities.max(1))
        head = {"version": live.version, "worker": self.worker, "request_id": identity}
        told = predictions(images, labels, probabilities, card.classes, asked)
        return msgspec.json.encode(head | {"predictions": told})

    async def feedback(self, request: Request, identity: str) -> Response:
        """What an image shows, told by somebody who knows: kept beside the record of its prediction."""
        card = self._released().classifier.card
        guard.media_type(request, ("application/json",))
        body = await guard.body(request, self.config.max_body_bytes)
        told = await self.work.apart(feedback.read, body, card)
        if self.records is None:
            raise Refusal(409, "records_off", "feedback: this server keeps no records")
        await asyncio.to_thread(self.records.told, told)
        reply = feedback.reply(told.pixels is not None, self.records.keeps(told.request_id))
        answer = {"worker": self.worker, "request_id": identity} | reply
        return Response(msgspec.json.encode(answer), media_type="application/json")

    async def livez(self, _request: Request, _identity: str) -> Response:
        """The process answers."""
        return PlainTextResponse("alive\n")

    async def readyz(self, _request: Request, _identity: str) -> Response:
        """Predictions are answered: an empty image was, just now."""
        live = self._released()
        blank = np.zeros((1, *live.classifier.card.shape), np.uint8)
        predict = live.classifier.predict
        probabilities = predict(blank) if live.quick else await self.work.apart(predict, blank)
        if not np.isfinite(probabilities).all():
            raise Refusal(503, "not_finite", "the classifier answers with numbers that are none")
        return PlainTextResponse("ready\n", headers={VERSION: live.version})

    async def info(self, _request: Request, _identity: str) -> Response:
        """What is live and since when, what every worker serves or could not take, and the limits."""
        workers = await asyncio.to_thread(self.board.read)
        told = {"worker": self.worker, "workers": workers} | info.tell(self.live, self.since, self.config)
        return Response(msgspec.json.encode(told), media_type="application/json")

    async def bentoml(self, request: Request, _identity: str) -> Response:
        """This API in the words of BentoML, as its clients look for it."""
        document = self.described()[request.scope["path"]]
        return Response(msgspec.json.encode(document), media_type="application/json")

    async def counters(self, _request: Request, _identity: str) -> Response:
        """The counters of all workers."""
        return await asyncio.to_thread(self.metrics.page)

    async def openapi(self, _request: Request, _identity: str) -> Response:
        """This API in the words of OpenAPI."""
        card = self.live.classifier.card if self.live else None
        return Response(
            msgspec.json.encode(describe(self.config, card, bool(self.keys))), media_type="application/json"
        )

    async def root(self, _request: Request, _identity: str) -> Response:
        """Leads to the page."""
        return self.page.lead()

    async def draw(self, request: Request, _identity: str) -> Response:
        """The page, or one of its files."""
        return self.page.answer(request.scope["path"])
