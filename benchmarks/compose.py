"""What the services of docker-compose.yml take, and how fast the API answers in its container, and outside.

Everything is up, with a release, as infra/smoke.sh leaves it. ENGINE=podman where that runs the containers.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from benchmarks import wrk
from benchmarks.served import HOST, WARM_UP
from benchmarks.workers import REPOSITORY, spread
from infra.chaos.containers import ENGINE, list_containers, run_engine
from relearn.model.home import Home
from relearn.serving.config import ServeConfig
from relearn.serving.deployment.server import start_server
from relearn.serving.releases.ledger import Release
from relearn.serving.releases.store import ReleaseStore

ADDRESS = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
NAME, WORKERS, CONNECTIONS = "digits", 2, 16
IMAGES = ("relearn-api", "relearn-flows")
HOME = "/var/lib/relearn"
UNITS = {"B": 1e-6, "kB": 1e-3, "KiB": 1.024e-3, "MB": 1.0, "MiB": 1.048576, "GB": 1e3, "GiB": 1073.741824}


def measure(rounds: int = 15, seconds: float = 3.0) -> tuple[str, str, pd.DataFrame]:
    """Requests a second in turn, and megabytes."""
    memory = dict(_memory())
    with _outside() as outside:
        (api,) = list_containers("api")
        places = {
            "in the container": f"http://{run_engine('inspect', '--format', ADDRESS, api).strip()}:3000",
            "in the container, through the published port": f"http://{HOST}:3000",
            "outside": outside,
        }
        rates: dict[str, list[float]] = {place: [] for place in places}
        for url in places.values():
            _ask(url, WARM_UP)
        for _ in range(rounds):
            for place, url in places.items():
                rates[place].append(_ask(url, seconds))
    rows = {f"requests/s, {place}": "{} ({})".format(*spread(told, 0)) for place, told in rates.items()}
    for place in [*places][:-1]:
        ratios = [ours / theirs for ours, theirs in zip(rates[place], rates["outside"], strict=True)]
        rows[f"{place} : outside"] = "{} ({})".format(*spread(ratios, 2))
    rows |= {f"image {image}, MB": f"{_size(image):,.0f}" for image in IMAGES}
    rows |= {f"memory of {name}, MB": f"{megabytes:,.0f}" for name, megabytes in memory.items()}
    rows["memory of all, MB"] = f"{sum(memory.values()):,.0f}"
    note = (
        f"One image a request as JSON from {CONNECTIONS} connections, {WORKERS} workers, wrk on the same "
        "machine; in the container by its own address and through the port that is published, where Docker "
        "puts a program of its own between two that are on one machine, and `relearn serve` outside with the "
        f"same release and a key; {rounds} rounds in turn of {seconds:g} s, a ratio within a round; medians, "
        f"with their range. Memory as {ENGINE} counts it for each container, idle. Aimed at: within 10 %; "
        "images of 1,500 and 3,000 MB; 3,000 MB in all."
    )
    return "Compose", note, pd.DataFrame(rows.items(), columns=["what", "measured"])


def _ask(url: str, seconds: float) -> float:
    body = json.dumps({"images": [[[0] * 28] * 28]}).encode()
    asked = wrk.ask(f"{url}/predict", "application/json", [body], CONNECTIONS, seconds, key=_key())
    if asked.failed:
        raise RuntimeError(f"{url}: {asked.failed} of {asked.requests} requests failed")
    return asked.rate


@contextmanager
def _outside() -> Iterator[str]:
    """The same release, served by `relearn serve` with as many workers; gives its address."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder), Path(folder) / "data")
        for part in ("releases", "bentoml"):
            run_engine("cp", f"{list_containers('api')[0]}:{HOME}/{part}", str(home.root / part))
        live: Release | None = ReleaseStore(home.releases_dir(NAME)).read_current()
        assert live, "nothing is live: infra/smoke.sh leaves a release"
        server = start_server(
            live.bento, ServeConfig(port=0, workers=WORKERS), home, model_name=NAME, api_keys=_key()
        )
        try:
            server.wait_until_ok("/readyz")
            yield server.url
        finally:
            server.stop()


def _memory() -> Iterator[tuple[str, float]]:
    """Of each container that holds any, by the name of its service and its number."""
    told = run_engine("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}")
    for name, used, unit in re.findall(r"^relearn[-_](\S+) ([\d.]+) ?(\w+)", told, re.M):
        if float(used):
            yield name, float(used) * UNITS[unit]


def _size(image: str) -> float:
    return int(run_engine("image", "inspect", image, "--format", "{{.Size}}")) / 1e6


def _key() -> str:
    return (REPOSITORY / "secrets" / "client_key").read_text().strip()
