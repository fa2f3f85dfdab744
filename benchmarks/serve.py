"""One image over HTTP: ours beside other servers, in turn, with the same network and the same images."""

import json
import subprocess
from contextlib import ExitStack
from typing import NamedTuple

import pandas as pd

from benchmarks import wrk
from benchmarks.server_fixtures import (
    FASTAPI,
    IMAGES,
    PEERS,
    STARLETTE,
    WARM_UP,
    Question,
    Released,
    ServerError,
    ours,
    released,
    takes_raw,
    theirs,
)
from benchmarks.subprocess_peers import THEIRS, spread

OURS = "ours"
PACKAGES = ("bentoml", "fastapi", "litserve", "mlflow", "starlette", "uvicorn", "uvloop")
NOT_SERVED = "not served"


class Row(NamedTuple):
    """What is measured: a server, what it is sent, its workers, and how many connections ask at once."""

    server: str
    request: str
    workers: int
    connections: int


ROWS = (
    *(
        Row(server, request, 1, connections)
        for server, request in (
            (OURS, "JSON"),
            (OURS, "raw"),
            *((peer, "JSON") for peer in PEERS),
            (STARLETTE, "raw"),
        )
        for connections in (1, 16)
    ),
    Row(OURS, "JSON", 2, 16),
    Row(OURS, "raw", 2, 16),
    Row(FASTAPI, "JSON", 2, 16),
)
Answering = dict[tuple[str, str, int], Question | str]


def measure(rounds: int = 5, seconds: float = 4.0) -> tuple[str, str, pd.DataFrame]:
    """Requests a second and milliseconds of each row, and how it compares with FastAPI."""
    results: dict[Row, list[wrk.Asked]] = {row: [] for row in ROWS}
    with released() as release, ExitStack() as stack:
        answering = _start(release, stack)
        for number in range(1, rounds + 1):
            for row in ROWS:
                question = answering[row[:3]]
                if isinstance(question, Question):
                    results[row].append(asked := _ask(question, row.connections, seconds))
                    print(f"round {number} of {rounds}, {row}: {asked.rate:.0f}/s, {asked}", flush=True)
    rows = [_told(row, answering[row[:3]], results) for row in ROWS]
    return "Prediction servers side by side", _note(rounds, seconds), pd.DataFrame(rows)


def _start(release: Released, stack: ExitStack) -> Answering:
    """Every server, checked and warm; for those that cannot be had, the reason."""
    answering: Answering = {}
    for workers in (1, 2):
        server = stack.enter_context(ours(release, workers))
        url = f"{server.url}/predict"
        answering[OURS, "JSON", workers] = Question.json(url, "images", release)
        raw = Question.raw(url, release) if takes_raw(server) else NOT_SERVED
        answering[OURS, "raw", workers] = raw
    for name, workers in (*((name, 1) for name in PEERS), (FASTAPI, 2)):
        peer = PEERS[name]
        try:
            url = stack.enter_context(theirs(peer, release, workers))
        except ServerError as error:
            print(f"{name}: {error}", flush=True)
            answering |= {(name, request, workers): str(error) for request in ("JSON", "raw")}
            continue
        answering[name, "JSON", workers] = Question.json(url + peer.path, peer.member, release)
        if peer.raw:
            answering[name, "raw", workers] = Question.raw(url + peer.raw, release)
    for question in answering.values():
        if isinstance(question, Question):
            question.check()
            _ask(question, 16, WARM_UP)
    return answering


def _ask(question: Question, connections: int, seconds: float) -> wrk.Asked:
    return wrk.ask(question.url, question.media_type, question.bodies, connections, seconds)


def _told(row: Row, question: Question | str, results: dict[Row, list[wrk.Asked]]) -> dict[str, object]:
    mine, told = results[row], row._asdict()
    if isinstance(question, str):
        return told | dict.fromkeys(COLUMNS, "–") | {COLUMNS[0]: question}
    against_fastapi = _ratios(mine, results[row._replace(server=FASTAPI, request="JSON")])
    ours_against = _ratios(results[row._replace(server=OURS, request="JSON")], mine)
    p50, p99 = (spread([getattr(asked, part) for asked in mine], 2)[0] for part in ("p50", "p99"))
    tail = spread([asked.p99 / asked.p50 for asked in mine], 1)[0]
    failed = sum(asked.failed for asked in mine)
    figures = (
        _shown([asked.rate for asked in mine], 0),
        against_fastapi,
        ours_against,
        p50,
        p99,
        tail,
        failed,
    )
    return told | dict(zip(COLUMNS, figures, strict=True))


def _ratios(upper: list[wrk.Asked], lower: list[wrk.Asked]) -> str:
    ratios = [one.rate / other.rate for one, other in zip(upper, lower, strict=False)]
    return _shown(ratios, 2) if ratios else "–"


def _shown(values: list[float], digits: int) -> str:
    return "{} ({})".format(*spread(values, digits))


COLUMNS = (
    "requests/s",
    "times FastAPI async with JSON",
    "ours with JSON is faster by",
    "ms, 50 %",
    "ms, 99 %",
    "99 % in 50 %",
    "failed",
)


def _note(rounds: int, seconds: float) -> str:
    return (
        "One MNIST image a request, the mlp 784-512-10 with the same weights everywhere, torch on one "
        "thread, uvloop and httptools, no access log where the server's own options allow. Ours is what "
        "`relearn serve` starts, with all that it does by default; the others are the files in "
        "`benchmarks/servers/`, LitServe with a second process for the network. BentoML's methods run with "
        f"BentoML's defaults. The labels of {IMAGES} images were the same everywhere. wrk with one thread on "
        f"the same machine, {seconds:g} s a turn; {rounds} rounds, all servers up, everyone in turn; a ratio "
        "is taken within a round; medians, with their range. Aimed at, with 16 connections: JSON 1.15 times "
        "FastAPI async, raw 1.6 times, 99 % within 2.5 times 50 %, three times BentoML's sync method. "
        f"{_versions()}."
    )


def _versions() -> str:
    code = (
        f"import json\nfrom importlib.metadata import version\nprint({{p: version(p) for p in {PACKAGES}}})"
    )
    done = subprocess.run([str(THEIRS), "-c", code], capture_output=True, text=True, check=True)
    versions = json.loads(done.stdout.replace("'", '"'))
    return ", ".join(f"{name} {version}" for name, version in versions.items())
