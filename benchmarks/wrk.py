"""Load generation by wrk, which needs far less CPU than the server under test."""

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).parent / "post.lua"


@dataclass(frozen=True)
class LoadResult:
    """Result of a load; `failed` counts answers other than 2xx and 3xx, and failed connections.

    `p50` and `p99` are latencies in milliseconds.
    """

    requests: int
    seconds: float
    failed: int
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def run_wrk(
    url: str,
    media_type: str,
    bodies: Sequence[bytes],
    connections: int,
    seconds: float,
    pause: int = 0,
    key: str = "",
) -> LoadResult:
    """Post `bodies` to `url` in turn for about `seconds`, over connections that stay open.

    Each connection sends the next request `pause` milliseconds after an answer, with the API key `key` unless
    it is empty. Raises `RuntimeError` with the output of wrk if it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / str(number) for number in range(len(bodies))]
        for file, body in zip(files, bodies, strict=True):
            file.write_bytes(body)
        duration = f"{max(1, round(seconds))}s"  # wrk takes whole seconds
        options = ["--threads", "1", "--connections", str(connections), "--duration", duration]
        arguments = [media_type, str(pause), *map(str, files)]
        process = subprocess.run(
            ["wrk", *options, "--timeout", "30s", "--script", str(SCRIPT), url, "--", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "API_KEY": key},
        )
    result_lines = [line for line in process.stdout.splitlines() if line.startswith("{")]
    if not result_lines:
        raise RuntimeError(f"wrk: {(process.stderr or process.stdout).strip()}")
    return LoadResult(**json.loads(result_lines[0]))
