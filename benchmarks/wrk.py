"""Load by wrk, which takes far less of a machine than the server that it asks."""

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).parent / "post.lua"


@dataclass(frozen=True)
class Asked:
    """What came of a load; `failed` counts answers other than 2xx and 3xx, and connections that failed.

    `p50` and `p99` are milliseconds.
    """

    requests: int
    seconds: float
    failed: int
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def ask(
    url: str,
    media_type: str,
    bodies: Sequence[bytes],
    connections: int,
    seconds: float,
    pause: int = 0,
    key: str = "",
) -> Asked:
    """Post `bodies` to `url` in turn for about so many seconds, over connections that stay open.

    Each asks again as soon as it is answered and `pause` milliseconds have passed, with `key` where the
    server wants one. Raises `RuntimeError`
    with wrk's own words where it cannot.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / str(number) for number in range(len(bodies))]
        for file, body in zip(files, bodies, strict=True):
            file.write_bytes(body)
        duration = f"{max(1, round(seconds))}s"  # wrk takes whole seconds
        options = ["--threads", "1", "--connections", str(connections), "--duration", duration]
        arguments = [media_type, str(pause), *map(str, files)]
        done = subprocess.run(
            ["wrk", *options, "--timeout", "30s", "--script", str(SCRIPT), url, "--", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "API_KEY": key},
        )
    told = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not told:
        raise RuntimeError(f"wrk: {(done.stderr or done.stdout).strip()}")
    return Asked(**json.loads(told[0]))
