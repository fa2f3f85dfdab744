"""Memory of the services of docker-compose.yml, and API throughput inside and outside of its container.

Requires running services with a release, as after infra/smoke.sh. Set ENGINE=podman for podman.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from benchmarks import wrk
from benchmarks.server_fixtures import HOST, WARM_UP
from benchmarks.subprocess_peers import REPOSITORY, median_range
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
    """Measure requests per second in interleaved rounds, and megabytes."""
    memory = dict(_memory())
    with _outside() as outside:
        (api,) = list_containers("api")
        urls = {
            "in the container": f"http://{run_engine('inspect', '--format', ADDRESS, api).strip()}:3000",
            "in the container, through the published port": f"http://{HOST}:3000",
            "outside": outside,
        }
        rates: dict[str, list[float]] = {place: [] for place in urls}
        for url in urls.values():
            _run_load(url, WARM_UP)
        for _ in range(rounds):
            for place, url in urls.items():
                rates[place].append(_run_load(url, seconds))
    rows = {
        f"requests/s, {place}": "{} ({})".format(*median_range(values, 0)) for place, values in rates.items()
    }
    for place in [*urls][:-1]:
        ratios = [
            rate / outside_rate for rate, outside_rate in zip(rates[place], rates["outside"], strict=True)
        ]
        rows[f"{place} : outside"] = "{} ({})".format(*median_range(ratios, 2))
    rows |= {f"image {image}, MB": f"{_size(image):,.0f}" for image in IMAGES}
    rows |= {f"memory of {name}, MB": f"{megabytes:,.0f}" for name, megabytes in memory.items()}
    rows["memory of all, MB"] = f"{sum(memory.values()):,.0f}"
    note = (
        f"One image per request as JSON from {CONNECTIONS} connections, {WORKERS} workers, wrk on the same "
        "machine; in the container by its own address and through the port that is published, which on one "
        "machine goes through a proxy of Docker, and `relearn serve` outside with the "
        f"same release and a key; {rounds} interleaved rounds of {seconds:g} s, ratios within a round; "
        f"medians, with their range. Memory as {ENGINE} counts it for each container, idle. Targets: within "
        f"10 %; "
        "images of 1,500 and 3,000 MB; 3,000 MB in all."
    )
    return "Compose", note, pd.DataFrame(rows.items(), columns=["what", "measured"])


def _run_load(url: str, seconds: float) -> float:
    body = json.dumps({"images": [[[0] * 28] * 28]}).encode()
    result = wrk.run_wrk(f"{url}/predict", "application/json", [body], CONNECTIONS, seconds, key=_key())
    if result.failed:
        raise RuntimeError(f"{url}: {result.failed} of {result.requests} requests failed")
    return result.rate


@contextmanager
def _outside() -> Iterator[str]:
    """Serve the same release by `relearn serve` with as many workers, and yield its URL."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder), Path(folder) / "data")
        for part in ("releases", "bentoml"):
            run_engine("cp", f"{list_containers('api')[0]}:{HOME}/{part}", str(home.root / part))
        live: Release | None = ReleaseStore(home.releases_dir(NAME)).read_live()
        assert live, "no release: run infra/smoke.sh first"
        server = start_server(
            live.bento, ServeConfig(port=0, workers=WORKERS), home, model_name=NAME, api_keys=_key()
        )
        try:
            server.wait_until_ok("/readyz")
            yield server.url
        finally:
            server.stop()


def _memory() -> Iterator[tuple[str, float]]:
    """Yield service name with number, and MB, of each container that uses memory."""
    stats = run_engine("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}")
    for name, used, unit in re.findall(r"^relearn[-_](\S+) ([\d.]+) ?(\w+)", stats, re.M):
        if float(used):
            yield name, float(used) * UNITS[unit]


def _size(image: str) -> float:
    return int(run_engine("image", "inspect", image, "--format", "{{.Size}}")) / 1e6


def _key() -> str:
    return (REPOSITORY / "secrets" / "client_key").read_text().strip()
