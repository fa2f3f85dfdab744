"""Health checks: `/livez` (also `/healthz`) and `/readyz`."""

import numpy as np
from starlette.responses import PlainTextResponse

from relearn.model.errors import InvalidModelOutputError
from relearn.serving.config import VERSION_HEADER
from relearn.serving.http.concurrency import ConcurrencyLimiter
from relearn.serving.http.errors import HTTPError
from relearn.serving.runtime.hot_reload import ServedModel


def report_live() -> PlainTextResponse:
    """Return the response of `/livez`: the process is alive, with or without a model."""
    return PlainTextResponse("alive\n")


async def check_ready(served_model: ServedModel, limiter: ConcurrencyLimiter) -> PlainTextResponse:
    """Predict a blank image; return the response of `/readyz`, with the served version as a header.

    Raises `HTTPError` 503 if the network fails on it. One that fails on an image of a client stays ready:
    otherwise that client could take the server from all others.
    """
    blank_image = np.zeros((1, *served_model.classifier.card.shape), np.uint8)
    try:
        if served_model.inline_images:
            served_model.predict(blank_image)
        else:
            await limiter.run_in_thread("", served_model.predict, blank_image)
    except InvalidModelOutputError as error:
        raise HTTPError(503, error.code, error.public_message) from error
    return PlainTextResponse("ready\n", headers={VERSION_HEADER: served_model.version})
