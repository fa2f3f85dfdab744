"""A real Prometheus that watches one API by the rules of infra/monitoring, on a faster clock."""

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from infra.alive import free_ports, wait_for

MONITORING = Path(__file__).parent / "monitoring"
# Nothing but durations: what would take minutes takes seconds, and what would take hours a minute. What is
# asked for, and the thresholds of all that is not a time, stays as it is.
FASTER = (
    (r"for: (\d+)m", r"for: \1s"),
    (r"\[(5|15)m\]", "[20s]"),  # ten scrapes
    (r"\[1h\] offset (3|26)h", "[1m] offset 1m"),
    (r"(3|26) \* 3600", "60"),
    (r"> 120", "> 40"),  # seconds of a runner that looks every 20
)
EVERY = "2s"  # instead of 15


@dataclass(frozen=True)
class Prometheus:
    """One that runs, for an API at `target`; `rules` are the names of its alerts."""

    folder: Path
    target: str
    url: str
    process: subprocess.Popen[bytes]
    rules: tuple[str, ...]

    def firing(self) -> set[str]:
        """The names of the alerts that sound now."""
        told = httpx.get(f"{self.url}/api/v1/alerts", timeout=5, trust_env=False).raise_for_status().json()
        return {one["labels"]["alertname"] for one in told["data"]["alerts"] if one["state"] == "firing"}

    def watch(self, *targets: str) -> None:
        """Scrape these from now on, as it does after its config was changed."""
        _write_config(self.folder, self.url, *targets)
        self.process.send_signal(signal.SIGHUP)


@contextmanager
def prometheus(folder: Path, target: str, key: str) -> Iterator[Prometheus]:
    """Watch the API at `target`, host:port, which is asked with `key`; all that it keeps is in `folder`."""
    folder.mkdir()
    rules = faster((MONITORING / "alerts.yml").read_text())
    (folder / "alerts.yml").write_text(rules)
    (folder / "key").write_text(key)
    listen = f"127.0.0.1:{free_ports(1)[0]}"
    url = f"http://{listen}"
    _write_config(folder, url, target)
    files = (f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["prometheus", *files, f"--web.listen-address={listen}"], stderr=log)
    names = tuple(re.findall(r"- alert: (\w+)", rules))
    try:
        wait_for(lambda: httpx.get(f"{url}/-/ready", timeout=2).is_success, "Prometheus", 30)
        yield Prometheus(folder, target, url, process, names)
    finally:
        process.terminate()
        process.wait(30)


def faster(rules: str) -> str:
    """The same rules, by the table above; each of its lines has something to replace."""
    for before, after in FASTER:
        rules, count = re.subn(before, after, rules)
        if not count:
            raise ValueError(f"no rule has {before!r}")
    return rules


def _write_config(folder: Path, url: str, *targets: str) -> None:
    """The repository's own, with the places that it names put where they are here."""
    places = {
        "/etc/prometheus/alerts.yml": str(folder / "alerts.yml"),
        "/run/secrets/metrics_key": str(folder / "key"),
        '"api:3000"': ", ".join(targets),
        "localhost:9090": url.removeprefix("http://"),
        "15s": EVERY,
    }
    text = (MONITORING / "prometheus.yml").read_text()
    for place, here in places.items():
        if place not in text:
            raise ValueError(f"prometheus.yml has no {place}")
        text = text.replace(place, here)
    (folder / "prometheus.yml").write_text(text)
