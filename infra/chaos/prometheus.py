"""A real Prometheus that scrapes one API with the rules of infra/monitoring and shorter durations."""

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from infra.chaos.temporary_stack import wait_for
from relearn.model.ports import find_free_port

MONITORING = Path(__file__).parents[1] / "monitoring"
# Only durations change: minutes become seconds, hours become a minute. Expressions and all other thresholds
# stay as they are.
SHORTER_DURATIONS = (
    (r"for: (\d+)m", r"for: \1s"),
    (r"\[(5|15)m\]", "[20s]"),  # ten scrapes
    (r"\[1h\] offset (3|26)h", "[1m] offset 1m"),
    (r"(3|26) \* 3600", "60"),
    (r"> 120", "> 40"),  # seconds without a heartbeat, which comes every 20
)
SCRAPE_INTERVAL = "2s"  # instead of 15s


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus that scrapes the API at `target`; `rules` are the names of its alerts."""

    folder: Path
    target: str
    url: str
    process: subprocess.Popen[bytes]
    rules: tuple[str, ...]

    def list_firing(self) -> set[str]:
        """Return the names of the firing alerts."""
        response = httpx.get(f"{self.url}/api/v1/alerts", timeout=5, trust_env=False).raise_for_status()
        alerts = response.json()["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def set_targets(self, *targets: str) -> None:
        """Write the config with these targets and reload it."""
        _write_config(self.folder, self.url, *targets)
        self.process.send_signal(signal.SIGHUP)


@contextmanager
def run_prometheus(folder: Path, target: str, api_key: str) -> Iterator[Prometheus]:
    """Run a Prometheus in `folder` that scrapes the API at `target` (host:port) with `api_key`."""
    folder.mkdir()
    rules = shorten_durations((MONITORING / "alerts.yml").read_text())
    (folder / "alerts.yml").write_text(rules)
    (folder / "key").write_text(api_key)
    address = f"127.0.0.1:{find_free_port()}"
    url = f"http://{address}"
    _write_config(folder, url, target)
    flags = (f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["prometheus", *flags, f"--web.listen-address={address}"], stderr=log)
    names = tuple(re.findall(r"- alert: (\w+)", rules))
    try:
        wait_for(lambda: httpx.get(f"{url}/-/ready", timeout=2).is_success, "Prometheus", 30)
        yield Prometheus(folder, target, url, process, names)
    finally:
        process.terminate()
        process.wait(30)


def shorten_durations(rules: str) -> str:
    """Apply `SHORTER_DURATIONS` to the rules; every pattern must match."""
    for pattern, replacement in SHORTER_DURATIONS:
        rules, count = re.subn(pattern, replacement, rules)
        if not count:
            raise ValueError(f"no rule matches {pattern!r}")
    return rules


def _write_config(folder: Path, url: str, *targets: str) -> None:
    """Write the repository's prometheus.yml with local paths, addresses and scrape interval."""
    replacements = {
        "/etc/prometheus/alerts.yml": str(folder / "alerts.yml"),
        "/run/secrets/metrics_key": str(folder / "key"),
        '"api:3000"': ", ".join(targets),
        "localhost:9090": url.removeprefix("http://"),
        "15s": SCRAPE_INTERVAL,
    }
    text = (MONITORING / "prometheus.yml").read_text()
    for original, local in replacements.items():
        if original not in text:
            raise ValueError(f"prometheus.yml does not contain {original}")
        text = text.replace(original, local)
    (folder / "prometheus.yml").write_text(text)
