"""The reply to images: what each is taken for, and how much of it a client wants to be told."""

import re

import numpy as np
from starlette.requests import Request

from model.errors import InputError
from serving.guard import Refusal


def predictions(
    labels: list[str], classes: tuple[str, ...], probabilities: np.ndarray, top_k: int | None = None
) -> list[dict[str, str | dict[str, float]]]:
    """For each row of `probabilities`, float32 (n, classes), its label and its numbers by class name.

    All of them in the order of the classes, or the `top_k` greatest, the greatest first.
    """
    rows = probabilities.astype(np.float64).round(8).tolist()
    if top_k is None:
        named = [dict(zip(classes, row, strict=True)) for row in rows]
    else:
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k].tolist()
        named = [
            {classes[index]: row[index] for index in chosen} for row, chosen in zip(rows, order, strict=True)
        ]
    return [{"label": label, "probabilities": one} for label, one in zip(labels, named, strict=True)]


def top_k(request: Request, classes: int) -> int | None:
    """How many classes the client wants to be told of each image; None for all."""
    asked = request.query_params.get("top_k")
    if asked is None:
        return None
    if not re.fullmatch("[0-9]{1,6}", asked) or not 1 <= int(asked) <= classes:
        raise InputError(f"top_k: got {asked[:20]!r}, accepted: 1 to {classes}", "out_of_range")
    return int(asked)


def check_version(request: Request, live: str) -> None:
    """A client that asks for one version is not answered by another."""
    asked = request.query_params.get("version", live)
    if asked != live:
        raise Refusal(
            404,
            "model_version_not_found",
            f"version: got {asked[:20]!r}, accepted: {live}, which is live",
        )
