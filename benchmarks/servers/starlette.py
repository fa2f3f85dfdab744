"""Starlette and msgspec, minimal: JSON at `/predict`, raw bytes at `/raw`."""

import msgspec
import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.servers.network import Digits


class Body(msgspec.Struct):
    images: list[list[list[int]]]


digits = Digits()
decoder = msgspec.json.Decoder(Body)


async def predict(request: Request) -> Response:
    return _answer(np.array(decoder.decode(await request.body()).images, np.uint8))


async def raw(request: Request) -> Response:
    return _answer(np.frombuffer(bytearray(await request.body()), np.uint8).reshape(-1, 28, 28))


def _answer(images: np.ndarray) -> Response:
    content = msgspec.json.encode({"predictions": digits.predict(images)})
    return Response(content, media_type="application/json")


app = Starlette(
    routes=[Route("/predict", predict, methods=["POST"]), Route("/raw", raw, methods=["POST"])],
)
