"""The way of a request: id, access, deadline, endpoint, metrics; every error becomes one form of response."""

import asyncio
import re
import time

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from relearn.model.errors import RelearnError, UserInputError
from relearn.serving.api.app import PredictionApp
from relearn.serving.api.operations import Operation
from relearn.serving.api.routes import OPERATIONS, find_operation
from relearn.serving.http import requests
from relearn.serving.http.errors import HTTPError, build_error_response
from relearn.serving.logger import logger


class RequestGuard:
    """ASGI application that checks each request, calls its endpoint in `app` and sends the response."""

    def __init__(self, app: PredictionApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one HTTP request; every error becomes a response."""
        start = time.perf_counter()
        request = Request(scope, receive)
        request_id = requests.get_or_create_request_id(request)
        operation = find_operation(scope["path"])
        try:
            async with asyncio.timeout(self.app.config.timeout_seconds):
                response = await self._dispatch(operation, request, request_id)
        except ClientDisconnect:
            return
        except (Exception, asyncio.CancelledError) as error:
            response = self._handle_error(error, request_id)
        response.raw_headers += requests.build_headers(request_id)
        route = operation.path if operation else "other"
        self.app.metrics.observe_request(route, response.status_code, time.perf_counter() - start)
        if (
            response.status_code < 400
            or "connection" in response.headers
            or requests.is_body_consumed(request)
        ):
            await response(scope, receive, send)
        else:
            await requests.send_and_close(request, response, send, self.app.config.max_body_bytes)

    def _handle_error(self, error: BaseException, request_id: str) -> Response:
        if isinstance(error, asyncio.CancelledError):  # the server stops, and its graceful timeout is over
            error = HTTPError(503, "stopping", "server: it is stopping")
        elif isinstance(error, TimeoutError):
            message = f"request: not finished within {self.app.config.timeout_seconds:g} seconds"
            error = HTTPError(504, "timeout", message, {"connection": "close"})
        elif not isinstance(error, RelearnError):
            logger.error("request %s failed", request_id, exc_info=error)
            error = RelearnError("unexpected error", "internal_error")
        elif not isinstance(error, UserInputError):
            logger.error("request %s failed: %s", request_id, error, exc_info=error.__cause__)
        self.app.metrics.request_errors.labels(error.code).inc()
        return build_error_response(error, request_id)

    async def _dispatch(self, operation: Operation | None, request: Request, request_id: str) -> Response:
        self.app.access_rules.check(request)
        if self.app.api_keys and (operation is None or not operation.is_public):
            self.app.api_keys.authenticate(request)
        if operation is None:
            path = request.scope["path"]
            got = f": {path}" if re.fullmatch("[A-Za-z0-9/_-]{1,60}", path) else ""
            paths = ", ".join(operation.path for operation in OPERATIONS)
            raise HTTPError(404, "not_found", f"No such path{got}; there are {paths}")
        if request.method != operation.method and (request.method, operation.method) != ("HEAD", "GET"):
            allow = operation.allowed_methods
            raise HTTPError(
                405, "method_not_allowed", f"Use {operation.method} for {operation.path}", {"allow": allow}
            )
        requests.check_query_parameters(request, operation.parameters)
        if not operation.is_limited:
            return await operation.handler(self.app, request, request_id)
        with self.app.limiter:
            return await operation.handler(self.app, request, request_id)
