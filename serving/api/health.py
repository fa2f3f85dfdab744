"""Health checks: `/livez` (also `/healthz`) and `/readyz`."""

import numpy as np
from starlette.responses import PlainTextResponse

from relearn.serving.config import VERSION_HEADER
from relearn.serving.http.concurrency import ConcurrencyLimiter
from relearn.serving.http.errors import HTTPError
from relearn.serving.runtime.hot_reload import ServedModel

HEALTH_PATHS = ("/livez", "/readyz", "/healthz")


def report_live() -> PlainTextResponse:
    """Return the response of `/livez`: the process is alive, with or without a model."""
    return PlainTextResponse("alive\n")


async def check_ready(served_model: ServedModel, limiter: ConcurrencyLimiter) -> PlainTextResponse:
    """Predict a blank image; return the response of `/readyz`, with the served version as a header.

    Raises `HTTPError` 503 if a probability is NaN or infinite.
    """
    blank_image = np.zeros((1, *served_model.classifier.card.shape), np.uint8)
    predict = served_model.classifier.predict
    probabilities = (
        predict(blank_image)
        if served_model.is_fast
        else await limiter.run_in_thread("", predict, blank_image)
    )
    if not np.isfinite(probabilities).all():
        raise HTTPError(503, "not_finite", "the classifier returned NaN or infinite probabilities")
    return PlainTextResponse("ready\n", headers={VERSION_HEADER: served_model.version})
